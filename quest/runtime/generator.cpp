#include "quest/runtime/generator.h"

#include <algorithm>
#include <chrono>

#include "quest/base/error.h"
#include "quest/runtime/stop_filter.h"

namespace quest {
namespace {

// Tokens of a prompt between two looks at whether to go on.
constexpr size_t kPromptPart = 512;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

std::string_view end_reason_name(EndReason reason) {
  switch (reason) {
    case EndReason::kMaxTokens:
      return "as many tokens as asked for";
    case EndReason::kEndToken:
      return "end of text";
    case EndReason::kStopString:
      return "stop string";
    case EndReason::kContextFull:
      return "the context is full";
    case EndReason::kCancelled:
      return "interrupted";
  }
  return "unknown";
}

double GenerationStatistics::prefill_tokens_per_second() const {
  const auto tokens = static_cast<double>(prompt_tokens - reused_tokens);
  return prefill_seconds > 0 ? tokens / prefill_seconds : 0;
}

double GenerationStatistics::decode_tokens_per_second() const {
  const auto tokens = static_cast<double>(std::max<int64_t>(0, written_tokens - 1));
  return decode_seconds > 0 ? tokens / decode_seconds : 0;
}

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view prompt) {
  std::vector<int32_t> ids = tokenizer.encode(prompt);
  if (ids.empty()) {
    const auto start = tokenizer.bos_id() ? tokenizer.bos_id() : tokenizer.eos_id();
    QUEST_CHECK(
        start.has_value(), ErrorKind::kUsage,
        "the prompt is empty and this tokenizer has no token that starts a document; give a "
        "--prompt");
    ids.push_back(*start);
  }
  return ids;
}

Generator::Generator(Engine& engine, const Tokenizer& tokenizer)
    : engine_(engine), tokenizer_(tokenizer), sequence_(0) {
  QUEST_CHECK(tokenizer.vocab_size() <= engine.config().vocab_size, ErrorKind::kUsage,
              "the tokenizer has {} tokens, the model {}: it is another model's tokenizer",
              tokenizer.vocab_size(), engine.config().vocab_size);
  sequence_ = engine_.add_sequence();
  logits_.resize(static_cast<size_t>(engine.config().vocab_size));
}

Generator::~Generator() { engine_.remove_sequence(sequence_); }

// What one generation shows and when it ends.
class Generator::Run {
 public:
  Run(const Tokenizer& tokenizer, const GenerationSettings& settings, const TextSink& sink)
      : decoder_(tokenizer), filter_(settings.stop), sink_(sink) {}

  void prompt(int32_t id, bool echo) {
    const std::string piece = decoder_.push(id);
    if (echo) show(piece);
  }
  // False if the text ends here.
  bool token(int32_t id) {
    show(filter_.push(decoder_.push(id)));
    if (filter_.stopped()) reason = EndReason::kStopString;
    return !filter_.stopped() && wants_more_;
  }
  bool wants_more() {
    if (wants_more_ && sink_) wants_more_ = sink_({});
    if (!wants_more_) reason = EndReason::kCancelled;
    return wants_more_;
  }
  void finish() {
    show(filter_.push(decoder_.flush()));
    show(filter_.flush());
  }

  std::string text;
  EndReason reason = EndReason::kMaxTokens;

 private:
  void show(const std::string& piece) {
    if (piece.empty()) return;
    text += piece;
    if (wants_more_ && sink_) wants_more_ = sink_(piece);
    if (!wants_more_) reason = EndReason::kCancelled;
  }

  StreamingDecoder decoder_;
  StopFilter filter_;
  const TextSink& sink_;
  bool wants_more_ = true;
};

// The tokens that were read before; -1 if `go_on` says no on the way.
int64_t Generator::read_prompt(std::span<const int32_t> prompt,
                               const std::function<bool()>& go_on) {
  size_t common = 0;
  // The last token is always read, for its logits.
  while (common + 1 < prompt.size() && common < held_.size() && held_[common] == prompt[common]) {
    ++common;
  }
  held_.resize(common);
  engine_.truncate(sequence_, static_cast<int64_t>(common));
  for (auto rest = prompt.subspan(common); !rest.empty();) {
    if (!go_on()) return -1;
    const auto part = rest.first(std::min(rest.size(), kPromptPart));
    rest = rest.subspan(part.size());
    engine_.prefill(sequence_, part, rest.empty() ? std::span(logits_) : std::span<float>());
    held_.insert(held_.end(), part.begin(), part.end());
  }
  return static_cast<int64_t>(common);
}

Generation Generator::generate(std::span<const int32_t> prompt, const GenerationSettings& settings,
                               const TextSink& sink) {
  QUEST_CHECK(settings.max_tokens >= 1, ErrorKind::kUsage,
              "max_tokens is {}, allowed are 1 and more", settings.max_tokens);
  const auto length = static_cast<int64_t>(prompt.size());
  QUEST_CHECK(length >= 1, ErrorKind::kUsage, "the prompt has no tokens");
  const int64_t room = engine_.context_length() - length;
  QUEST_CHECK(room > 0, ErrorKind::kUsage,
              "the prompt has {} tokens, the context holds {}: shorten it or raise --context",
              length, engine_.context_length());
  for (const auto& [id, bias] : settings.sampler.logit_bias) {
    QUEST_CHECK(id < tokenizer_.vocab_size(), ErrorKind::kUsage,
                "logit_bias names token {}, the last one is {}", id, tokenizer_.vocab_size() - 1);
  }
  Sampler sampler(settings.sampler);
  const auto vocabulary = static_cast<size_t>(tokenizer_.vocab_size());
  const std::span<const float> logits(logits_.data(), vocabulary);
  const auto ends_text = [&](int32_t id) {
    return id == tokenizer_.eos_id() || id == engine_.config().eos_token_id ||
           std::find(settings.end_tokens.begin(), settings.end_tokens.end(), id) !=
               settings.end_tokens.end();
  };

  Generation result;
  result.statistics.prompt_tokens = length;
  Run run(tokenizer_, settings, sink);
  for (const int32_t id : prompt) run.prompt(id, settings.echo);
  auto start = Clock::now();
  const int64_t reused = read_prompt(prompt, [&] { return run.wants_more(); });
  result.statistics.reused_tokens = std::max<int64_t>(0, reused);
  result.statistics.prefill_seconds = seconds_since(start);

  start = Clock::now();
  std::vector<int32_t> ids(prompt.begin(), prompt.end());
  const int64_t wanted = std::min(settings.max_tokens, room);
  if (wanted < settings.max_tokens) run.reason = EndReason::kContextFull;
  while (reused >= 0 && run.wants_more()) {
    const int32_t next = sampler.sample(logits, ids.size(), ids);
    ++result.statistics.written_tokens;
    if (!settings.ignore_end && ends_text(next)) {
      run.reason = EndReason::kEndToken;
      break;
    }
    ids.push_back(next);
    if (!run.token(next) || result.statistics.written_tokens == wanted) break;
    engine_.decode({&sequence_, 1}, {&next, 1}, logits_);
    held_.push_back(next);
  }
  run.finish();
  result.statistics.decode_seconds = seconds_since(start);
  result.tokens.assign(ids.begin() + length, ids.end());
  result.text = std::move(run.text);
  result.reason = run.reason;
  return result;
}

}  // namespace quest
