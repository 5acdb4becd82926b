// The evaluation that `quest eval` and `quest-run eval` share: perplexity of texts or a token file,
// multiple-choice tasks. Results are printed and returned for --json.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "quest/cli_run/text_options.h"
#include "quest/eval/scorer.h"
#include "quest/text/tokenizer.h"

namespace quest::cli {

struct EvaluateArguments {
  std::string tokens;
  TextArguments text;
  std::string choices;
  std::string choice_format = "hellaswag";
  std::string json;
  int64_t context = 0, stride = 0, max_tokens = 0;
};

// `arguments` must outlive the command.
void add_evaluate_options(CLI::App& command, EvaluateArguments& arguments);
// Throws kUsage unless exactly one input is named: before a model is loaded for nothing.
void check(const EvaluateArguments& arguments);
nlohmann::ordered_json evaluate(const EvaluateArguments& arguments, const Tokenizer& tokenizer,
                                Scorer& scorer);

}  // namespace quest::cli
