#include "quest/text/train_sentencepiece.h"

#include <algorithm>
#include <regex>
#include <unordered_map>
#include <vector>

#include <sentencepiece_trainer.h>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/text/sentencepiece_tokenizer.h"
#include "quest/text/utf8.h"

namespace quest {
namespace {

constexpr size_t kMaxLineBytes = 4096;
// SentencePiece's unigram trainer adds up its counts per thread: a fixed number keeps them the
// same.
constexpr int kTrainerThreads = 4;
constexpr int64_t kMaxVocabSize = 1 << 20;
constexpr uint64_t kSampleStream = 0x746f6b656e697a65;  // keeps these draws apart from others

void check_options(const SentencePieceOptions& options) {
  QUEST_CHECK(options.vocab_size >= 4 && options.vocab_size <= kMaxVocabSize, ErrorKind::kUsage,
              "vocabulary size {} is out of range, allowed are 4 to {}", options.vocab_size,
              kMaxVocabSize);
  QUEST_CHECK(options.model_type == "bpe" || options.model_type == "unigram", ErrorKind::kUsage,
              "unknown tokenizer model '{}', allowed are bpe and unigram", options.model_type);
  QUEST_CHECK(options.character_coverage >= 0.98 && options.character_coverage <= 1,
              ErrorKind::kUsage, "character coverage {} is out of range, allowed are 0.98 to 1",
              options.character_coverage);
  QUEST_CHECK(options.max_lines >= 1, ErrorKind::kUsage, "max_lines is {}, allowed are 1 or more",
              options.max_lines);
}

// Keeps a uniform sample of at most max_lines lines (reservoir sampling, Vitter 1985, algorithm R).
class LineSample {
 public:
  LineSample(int64_t max_lines, uint64_t seed)
      : max_lines_(static_cast<uint64_t>(max_lines)), random_(seed, kSampleStream) {}

  void add(std::string_view line) {
    const uint64_t index = seen_++;
    if (lines_.size() < max_lines_) {
      lines_.emplace_back(line);
      return;
    }
    const uint64_t slot = random_.below(index, index + 1);
    if (slot < max_lines_) lines_[slot] = line;
  }
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  uint64_t max_lines_;
  Philox random_;
  uint64_t seen_ = 0;
  std::vector<std::string> lines_;
};

// Where to end a line's first part: behind the last word that fits, else between characters.
size_t cut_line(std::string_view line) {
  if (line.size() <= kMaxLineBytes) return line.size();
  const size_t space = line.rfind(' ', kMaxLineBytes);
  if (space != std::string_view::npos && space > 0) return space;
  return kMaxLineBytes - incomplete_utf8_suffix(line.substr(0, kMaxLineBytes));
}

LineSample collect_lines(const SentencePieceOptions& options,
                         const std::function<bool(std::string&)>& next_text) {
  LineSample sample(options.max_lines, options.seed);
  std::string text;
  while (next_text(text)) {
    sanitize_utf8(text);
    std::string_view rest = text;
    while (!rest.empty()) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      while (!line.empty()) {
        const size_t length = cut_line(line);
        sample.add(line.substr(0, length));
        line.remove_prefix(length);
      }
    }
  }
  QUEST_CHECK(!sample.lines().empty(), ErrorKind::kData,
              "there is no text to train a tokenizer on: all inputs are empty");
  return sample;
}

class Sentences final : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return index_ >= lines_.size(); }
  void Next() override { ++index_; }
  const std::string& value() const override { return lines_[index_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t index_ = 0;
};

// SentencePiece says how large a vocabulary may be only in the text of its message.
[[noreturn]] void throw_training_error(const SentencePieceOptions& options,
                                       const std::string& message) {
  std::smatch match;
  if (std::regex_search(message, match, std::regex("Please set it to a value <= ([0-9]+)"))) {
    QUEST_THROW(ErrorKind::kUsage,
                "a vocabulary of {} is too large for this text: at most {} are possible",
                options.vocab_size, match[1].str());
  }
  if (std::regex_search(message, match, std::regex("required_chars. [0-9]+ vs ([0-9]+)"))) {
    QUEST_THROW(
        ErrorKind::kUsage,
        "a vocabulary of {} is too small: this text's characters, the bytes and the control "
        "tokens need at least {}",
        options.vocab_size, match[1].str());
  }
  QUEST_THROW(ErrorKind::kData, "SentencePiece cannot train on this text: {}", message);
}

}  // namespace

std::unique_ptr<Tokenizer> train_sentencepiece(const SentencePieceOptions& options,
                                               const std::function<bool(std::string&)>& next_text) {
  check_options(options);
  const LineSample sample = collect_lines(options, next_text);
  const auto flag = [](bool on) { return std::string(on ? "true" : "false"); };
  const std::unordered_map<std::string, std::string> settings = {
      {"vocab_size", fmt::format("{}", options.vocab_size)},
      {"model_type", options.model_type},
      {"character_coverage", fmt::format("{}", options.character_coverage)},
      {"byte_fallback", flag(options.byte_fallback)},
      {"split_digits", flag(options.split_digits)},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"max_sentence_length", fmt::format("{}", kMaxLineBytes + 1)},
      {"num_threads", fmt::format("{}", kTrainerThreads)},
      {"minloglevel", "3"},
  };
  Sentences sentences(sample.lines());
  std::string serialized;
  std::string problem;
  try {
    const auto status =
        sentencepiece::SentencePieceTrainer::Train(settings, &sentences, &serialized);
    if (!status.ok()) problem = status.ToString();
  } catch (const std::exception& error) {
    problem = error.what();
  }
  if (!problem.empty()) throw_training_error(options, problem);
  return make_sentencepiece_tokenizer(std::move(serialized), "the trained tokenizer");
}

}  // namespace quest
