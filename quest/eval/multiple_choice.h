// Multiple-choice tasks (HellaSwag and files like it), item by item as lm-evaluation-harness does.
//
// Each ending is scored by the sum of ln p of its tokens after the context. The choice is the
// largest sum (acc), the largest sum per character of the ending (acc_norm) or per byte
// (acc_bytes); of equal ones the first. A context that is too long loses its beginning.
//
//   const auto items = load_choice_items("hellaswag_val.jsonl", ChoiceFormat::kHellaSwag);
//   const EncodeFn encode = [&](std::string_view text) { ... BOS and tokenizer.encode(text) ... };
//   const MultipleChoiceResult r = multiple_choice(scorer, encode_choices(items, encode));
//
// Source: HellaSwag, arXiv 1905.07830; https://github.com/EleutherAI/lm-evaluation-harness.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/eval/scorer.h"

namespace quest {

struct ChoiceItem {
  std::string context;
  std::vector<std::string> endings;  // at least 2, without the space that joins them to the context
  int64_t label = 0;                 // index of the right one
};

enum class ChoiceFormat {
  kPlain,      // {"ctx": "...", "endings": ["...", ...], "label": 0}
  kHellaSwag,  // the data set's own lines: activity_label, ctx_a, ctx_b, endings, label; the text
               // is cleaned as the harness does (upper and lower case of ASCII letters only)
};

// One JSON object per line; empty lines are skipped, further keys are ignored, label may be a
// number or a string. Throws kIo, or kData with the path and the line's number.
std::vector<ChoiceItem> load_choice_items(const std::filesystem::path& path, ChoiceFormat format);

// A text to tokens, with the beginning-of-document token first if the model was trained with one.
using EncodeFn = std::function<std::vector<int32_t>(std::string_view)>;

struct EncodedEnding {
  std::vector<int32_t> tokens;  // context and ending
  int64_t context_tokens = 0;   // how many of them belong to the context: at least 1
  int64_t characters = 0;       // of the ending: Unicode code points
  int64_t bytes = 0;            // of the ending
};
struct EncodedItem {
  std::vector<EncodedEnding> endings;
  int64_t label = 0;
};

// Joins context and ending with one space and splits the tokens of the whole where the context's
// own tokens end; white space at the end of a context counts to the ending. Throws kData, with the
// item's number from 1, if an ending is empty or has no token of its own, or if a context has no
// token at all.
std::vector<EncodedItem> encode_choices(std::span<const ChoiceItem> items, const EncodeFn& encode);

struct Accuracy {
  double value = 0;
  double standard_error = 0;  // sample standard deviation / sqrt(items); 0 for a single item
};

struct ChoiceOutcome {
  std::vector<double> logprobs;  // one sum for each ending
  int64_t choice = 0, choice_norm = 0, choice_bytes = 0;
  int64_t label = 0;
};

struct MultipleChoiceResult {
  int64_t items = 0;
  Accuracy acc, acc_norm, acc_bytes;
  std::vector<ChoiceOutcome> outcomes;  // in the order of the items
};

// Sequences are scored in batches of similar length, or item by item where the scorer keeps
// beginnings. `progress` is called after each batch with the
// sequences scored so far and in all; it may throw to stop. Throws kUsage if there are no items or
// an ending is longer than the scorer's context, kNumeric if a log-probability is NaN.
MultipleChoiceResult multiple_choice(
    Scorer& scorer, std::span<const EncodedItem> items,
    const std::function<void(int64_t done, int64_t total)>& progress = {});

// The harness's cleaning of HellaSwag texts; public for tests.
std::string clean_hellaswag_text(std::string_view text);

}  // namespace quest
