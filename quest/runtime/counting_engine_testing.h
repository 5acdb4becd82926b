// An engine for tests of what stands on engines: after token t it says t + 1, or what a script
// says.
#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include "quest/base/error.h"
#include "quest/runtime/engine.h"

namespace quest::testing {

class CountingEngine : public Engine {
 public:
  explicit CountingEngine(int64_t vocabulary = 257, int64_t context = 64) {
    config_.vocab_size = vocabulary;
    config_.max_position_embeddings = context;
  }

  const LlamaConfig& config() const override { return config_; }
  int64_t context_length() const override { return config_.max_position_embeddings; }
  SequenceId add_sequence() override {
    sequences_[++last_];
    return last_;
  }
  void remove_sequence(SequenceId id) override { sequences_.erase(id); }
  int64_t length(SequenceId id) const override {
    return static_cast<int64_t>(sequences_.at(id).size());
  }
  void truncate(SequenceId id, int64_t length) override {
    QUEST_CHECK(length <= this->length(id), ErrorKind::kUsage, "cannot be cut");
    sequences_[id].resize(static_cast<size_t>(length));
  }
  void prefill(SequenceId id, std::span<const int32_t> tokens, std::span<float> logits) override {
    auto& held = sequences_.at(id);
    held.insert(held.end(), tokens.begin(), tokens.end());
    prefilled += static_cast<int64_t>(tokens.size());
    QUEST_CHECK(length(id) <= context_length(), ErrorKind::kUsage, "the context is full");
    if (!logits.empty()) answer(held, logits);
  }
  void prefill_all(SequenceId, std::span<const int32_t>, const TokenLogits&) override {}
  void score(SequenceId, std::span<const int32_t>, TokenScores) override {}
  void decode(std::span<const SequenceId> ids, std::span<const int32_t> tokens,
              std::span<float> logits) override {
    auto& held = sequences_.at(ids[0]);
    held.push_back(tokens[0]);
    QUEST_CHECK(length(ids[0]) <= context_length(), ErrorKind::kUsage, "the context is full");
    ++decoded;
    answer(held, logits);
  }
  std::string plans() const override { return "counting"; }

  std::map<int32_t, int32_t> script;  // what follows a token, where it is not the next one
  int64_t prefilled = 0, decoded = 0;
  LlamaConfig config_;

 private:
  void answer(const std::vector<int32_t>& held, std::span<float> logits) {
    std::fill(logits.begin(), logits.end(), 0.0f);
    const auto it = script.find(held.back());
    const int64_t next = it == script.end() ? (held.back() + 1) % config_.vocab_size : it->second;
    logits[static_cast<size_t>(next)] = 20.0f;
  }

  std::map<SequenceId, std::vector<int32_t>> sequences_;
  SequenceId last_ = 0;
};

}  // namespace quest::testing
