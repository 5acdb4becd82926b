#include "quest/data/build_token_file.h"

#include <deque>
#include <iterator>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/base/thread_pool.h"
#include "quest/data/held_out_split.h"

namespace quest {
namespace {

// Text per thread that is tokenized between two progress reports; bounds the memory of the build.
constexpr int64_t kGroupBytesPerThread = int64_t{512} << 10;
// SentencePiece takes more than linear time: 256 KB at once take 2.4 times as long as in parts of
// 16 KB.
constexpr size_t kTokenizerBytes = size_t{16} << 10;

std::vector<int32_t> tokenize(const TextPiece& piece, const Tokenizer& tokenizer,
                              bool prepend_bos) {
  std::vector<int32_t> ids;
  if (piece.begins_document && prepend_bos) ids.push_back(*tokenizer.bos_id());
  bool at_start = piece.begins_document;
  for (std::string_view rest = piece.text; !rest.empty();) {
    const std::string_view part = rest.substr(0, find_text_cut(rest, kTokenizerBytes));
    const std::vector<int32_t> part_ids =
        at_start ? tokenizer.encode(part) : tokenizer.encode_continuation(part);
    ids.insert(ids.end(), part_ids.begin(), part_ids.end());
    rest.remove_prefix(part.size());
    at_start = false;
  }
  if (piece.ends_document && tokenizer.eos_id()) ids.push_back(*tokenizer.eos_id());
  return ids;
}

class Builder {
 public:
  Builder(TextSource& source, const Tokenizer& tokenizer, const BuildOptions& options,
          const std::filesystem::path& train_path, const std::filesystem::path& validation_path)
      : source_(source), tokenizer_(tokenizer), options_(options), pool_(options.threads) {
    TokenFileInfo info;
    info.vocab_size = tokenizer.vocab_size();
    info.bos_id = tokenizer.bos_id();
    info.eos_id = tokenizer.eos_id();
    info.tokenizer_fingerprint = tokenizer.fingerprint();
    train_ = std::make_unique<TokenFileWriter>(train_path, info);
    if (options.validation_fraction > 0) {
      validation_ = std::make_unique<TokenFileWriter>(validation_path, info);
    }
  }

  BuildResult run() {
    look_ahead();
    QUEST_CHECK(!ahead_.empty(), ErrorKind::kData,
                "there is no text in {}; give files that hold some",
                format_count(std::ssize(source_.files()), "input file"));
    HeldOutSplit split(options_.validation_fraction, options_.seed, small_text_bytes_);
    std::optional<ProgressBar> progress;
    if (options_.show_progress) progress.emplace("tokenizing", source_.total_file_bytes(), "B");

    std::vector<TextPiece> pieces;
    int64_t bytes = 0;
    const int64_t group_bytes = kGroupBytesPerThread * pool_.size();
    for (ReadChunk read; next_chunk(read);) {
      bytes += static_cast<int64_t>(read.chunk.text.size());
      split.add(std::move(read.chunk), pieces);
      if (bytes < group_bytes) continue;
      write_pieces(pieces);
      pieces.clear();
      bytes = 0;
      if (progress) progress->update(read.file_bytes);
      if (shutdown_signal() != 0) return {.train = {}, .validation = {}, .interrupted = true};
    }
    write_pieces(pieces);
    if (shutdown_signal() != 0) return {.train = {}, .validation = {}, .interrupted = true};
    if (validation_) validation_->finish();
    train_->finish();
    if (progress) {
      progress->update(source_.file_bytes_read());
      progress->finish();
    }
    return {.train = train_->info(),
            .validation = validation_ ? validation_->info() : TokenFileInfo{},
            .interrupted = false};
  }

 private:
  struct ReadChunk {
    TextChunk chunk;
    int64_t file_bytes = 0;  // read until it was there
  };

  // Reads as much as the split must know of a text before it begins.
  void look_ahead() {
    int64_t bytes = 0;
    for (TextChunk chunk; bytes < HeldOutSplit::kSmallTextBytes;) {
      if (!source_.next(chunk)) {
        small_text_bytes_ = bytes;
        return;
      }
      bytes += static_cast<int64_t>(chunk.text.size());
      ahead_.push_back({std::move(chunk), source_.file_bytes_read()});
    }
  }

  bool next_chunk(ReadChunk& read) {
    if (!ahead_.empty()) {
      read = std::move(ahead_.front());
      ahead_.pop_front();
      return true;
    }
    if (small_text_bytes_ || !source_.next(read.chunk)) return false;
    read.file_bytes = source_.file_bytes_read();
    return true;
  }

  void write_pieces(const std::vector<TextPiece>& pieces) {
    std::vector<std::vector<int32_t>> tokens(pieces.size());
    pool_.parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
      const auto at = static_cast<size_t>(i);
      tokens[at] = tokenize(pieces[at], tokenizer_, options_.prepend_bos);
    });
    for (size_t i = 0; i < pieces.size(); ++i) {
      TokenFileWriter& writer = pieces[i].side == Side::kTrain ? *train_ : *validation_;
      if (pieces[i].begins_document) writer.begin_document();
      writer.append(tokens[i], static_cast<int64_t>(pieces[i].text.size()));
    }
  }

  TextSource& source_;
  const Tokenizer& tokenizer_;
  const BuildOptions& options_;
  ThreadPool pool_;
  std::unique_ptr<TokenFileWriter> train_;
  std::unique_ptr<TokenFileWriter> validation_;
  std::deque<ReadChunk> ahead_;
  std::optional<int64_t> small_text_bytes_;  // all of it, if it was read to the end ahead
};

}  // namespace

BuildResult build_token_files(TextSource& source, const Tokenizer& tokenizer,
                              const BuildOptions& options, const std::filesystem::path& train_path,
                              const std::filesystem::path& validation_path) {
  QUEST_CHECK(options.validation_fraction >= 0 && options.validation_fraction <= 0.5,
              ErrorKind::kUsage, "validation fraction {} is out of range, allowed are 0 to 0.5",
              options.validation_fraction);
  QUEST_CHECK(options.threads >= 0, ErrorKind::kUsage, "{} threads are impossible",
              options.threads);
  QUEST_CHECK(!options.prepend_bos || tokenizer.bos_id(), ErrorKind::kUsage,
              "the tokenizer ({}) has no beginning-of-document token to put before documents",
              tokenizer.kind());
  return Builder(source, tokenizer, options, train_path, validation_path).run();
}

}  // namespace quest
