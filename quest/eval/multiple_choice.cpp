#include "quest/eval/multiple_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "quest/base/error.h"
#include "quest/base/white_space.h"

namespace quest {

namespace {

int64_t count_code_points(std::string_view text) {
  // Every byte but the continuation bytes 10xxxxxx begins one.
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

EncodedEnding encode_ending(const ChoiceItem& item, size_t ending, size_t item_number,
                            const EncodeFn& encode) {
  const std::string& text = item.endings[ending];
  QUEST_CHECK(!text.empty(), ErrorKind::kData, "item {}: ending {} is empty", item_number,
              ending + 1);
  std::string context = item.context;
  const size_t last = context.find_last_not_of(kWhiteSpace);
  const size_t kept = last == std::string::npos ? 0 : last + 1;
  const std::string continuation = context.substr(kept) + " " + text;
  context.resize(kept);

  EncodedEnding result;
  result.tokens = encode(context + continuation);
  result.context_tokens = static_cast<int64_t>(encode(context).size());
  result.characters = count_code_points(text);
  result.bytes = static_cast<int64_t>(text.size());
  QUEST_CHECK(result.context_tokens >= 1, ErrorKind::kData,
              "item {}: the context is empty, so the ending's first token cannot be scored: put a "
              "beginning-of-document token before it",
              item_number);
  QUEST_CHECK(result.context_tokens < static_cast<int64_t>(result.tokens.size()), ErrorKind::kData,
              "item {}: ending {} has no token of its own", item_number, ending + 1);
  return result;
}

size_t index_of_largest(const std::vector<double>& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

Accuracy accuracy_of(int64_t right, int64_t items) {
  const auto n = static_cast<double>(items);
  Accuracy accuracy;
  accuracy.value = static_cast<double>(right) / n;
  // The sample variance of zeros and ones: n/(n-1) * p(1-p).
  if (items > 1) {
    accuracy.standard_error = std::sqrt(accuracy.value * (1 - accuracy.value) / (n - 1));
  }
  return accuracy;
}

ChoiceOutcome choose(const EncodedItem& item, std::vector<double> sums) {
  ChoiceOutcome outcome;
  outcome.label = item.label;
  outcome.choice = static_cast<int64_t>(index_of_largest(sums));
  std::vector<double> norm(sums.size()), per_byte(sums.size());
  for (size_t i = 0; i < sums.size(); ++i) {
    norm[i] = sums[i] / static_cast<double>(item.endings[i].characters);
    per_byte[i] = sums[i] / static_cast<double>(item.endings[i].bytes);
  }
  outcome.choice_norm = static_cast<int64_t>(index_of_largest(norm));
  outcome.choice_bytes = static_cast<int64_t>(index_of_largest(per_byte));
  outcome.logprobs = std::move(sums);
  return outcome;
}

// One sequence to score: ending `ending` of item `item`.
struct Sequence {
  size_t item, ending;
  std::span<const int32_t> tokens;  // the last context_length + 1
  size_t scored;                    // tokens of the ending: the last ones
};

std::vector<Sequence> sequences_of(std::span<const EncodedItem> items, int64_t context_length,
                                   bool item_by_item) {
  std::vector<Sequence> sequences;
  for (size_t i = 0; i < items.size(); ++i) {
    QUEST_CHECK(
        items[i].label >= 0 && items[i].label < static_cast<int64_t>(items[i].endings.size()),
        ErrorKind::kUsage, "item {}: the label is {}, there are {} endings", i + 1, items[i].label,
        items[i].endings.size());
    for (size_t e = 0; e < items[i].endings.size(); ++e) {
      const EncodedEnding& ending = items[i].endings[e];
      const auto length = static_cast<int64_t>(ending.tokens.size());
      const int64_t own = length - ending.context_tokens;
      QUEST_CHECK(
          ending.context_tokens >= 1 && own >= 1 && ending.characters >= 1 && ending.bytes >= 1,
          ErrorKind::kUsage, "item {}: ending {} is not encoded properly", i + 1, e + 1);
      QUEST_CHECK(own <= context_length, ErrorKind::kUsage,
                  "item {}: ending {} has {} tokens, the model's context has {}", i + 1, e + 1, own,
                  context_length);
      const auto kept = static_cast<size_t>(std::min(length, context_length + 1));
      sequences.push_back({i, e, std::span(ending.tokens).last(kept), static_cast<size_t>(own)});
    }
  }
  if (item_by_item) return sequences;
  // Long ones first: batches need little padding, and one that does not fit in memory fails at
  // once.
  std::stable_sort(sequences.begin(), sequences.end(), [](const Sequence& a, const Sequence& b) {
    return a.tokens.size() > b.tokens.size();
  });
  return sequences;
}

}  // namespace

std::vector<EncodedItem> encode_choices(std::span<const ChoiceItem> items, const EncodeFn& encode) {
  std::vector<EncodedItem> encoded;
  encoded.reserve(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    EncodedItem item;
    item.label = items[i].label;
    for (size_t e = 0; e < items[i].endings.size(); ++e) {
      item.endings.push_back(encode_ending(items[i], e, i + 1, encode));
    }
    encoded.push_back(std::move(item));
  }
  return encoded;
}

MultipleChoiceResult multiple_choice(
    Scorer& scorer, std::span<const EncodedItem> items,
    const std::function<void(int64_t done, int64_t total)>& progress) {
  QUEST_CHECK(!items.empty(), ErrorKind::kUsage, "there are no items to choose in");
  const std::vector<Sequence> sequences =
      sequences_of(items, scorer.context_length(), scorer.keeps_beginnings());
  const auto batch = static_cast<size_t>(std::max<int64_t>(1, scorer.batch_size()));

  std::vector<std::vector<double>> sums(items.size());
  for (size_t i = 0; i < items.size(); ++i) sums[i].resize(items[i].endings.size());
  std::vector<std::vector<float>> logprobs(batch);
  std::vector<ScoreRequest> requests;
  for (size_t first = 0; first < sequences.size(); first += batch) {
    const size_t end = std::min(sequences.size(), first + batch);
    requests.clear();
    for (size_t s = first; s < end; ++s) {
      std::vector<float>& room = logprobs[s - first];
      room.assign(sequences[s].tokens.size() - 1, 0.0f);
      requests.push_back({sequences[s].tokens, room, {}});
    }
    scorer.score(requests);
    for (size_t s = first; s < end; ++s) {
      const Sequence& sequence = sequences[s];
      const auto own = std::span<const float>(logprobs[s - first]).last(sequence.scored);
      const double sum = std::accumulate(own.begin(), own.end(), 0.0);
      QUEST_CHECK(!std::isnan(sum), ErrorKind::kNumeric,
                  "item {}: the log-probability of ending {} is NaN", sequence.item + 1,
                  sequence.ending + 1);
      sums[sequence.item][sequence.ending] = sum;
    }
    if (progress) progress(static_cast<int64_t>(end), static_cast<int64_t>(sequences.size()));
  }

  MultipleChoiceResult result;
  result.items = static_cast<int64_t>(items.size());
  int64_t right = 0, right_norm = 0, right_bytes = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const ChoiceOutcome outcome = choose(items[i], std::move(sums[i]));
    right += outcome.choice == outcome.label;
    right_norm += outcome.choice_norm == outcome.label;
    right_bytes += outcome.choice_bytes == outcome.label;
    result.outcomes.push_back(outcome);
  }
  result.acc = accuracy_of(right, result.items);
  result.acc_norm = accuracy_of(right_norm, result.items);
  result.acc_bytes = accuracy_of(right_bytes, result.items);
  return result;
}

}  // namespace quest
