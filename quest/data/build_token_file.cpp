#include "quest/data/build_token_file.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/base/thread_pool.h"
#include "quest/data/held_out_split.h"

namespace quest {
namespace {

// Text that is tokenized at once, and so the memory of the build.
constexpr int64_t kGroupBytes = int64_t{8} << 20;

std::vector<int32_t> tokenize(const TextPiece& piece, const Tokenizer& tokenizer,
                              bool prepend_bos) {
  std::vector<int32_t> ids = piece.begins_document ? tokenizer.encode(piece.text)
                                                   : tokenizer.encode_continuation(piece.text);
  if (piece.begins_document && prepend_bos) ids.insert(ids.begin(), *tokenizer.bos_id());
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
    std::vector<TextChunk> first = read_group();
    QUEST_CHECK(!first.empty(), ErrorKind::kData, "there is no text in the {} input files",
                source_.files().size());
    int64_t first_bytes = 0;
    for (const TextChunk& chunk : first) first_bytes += static_cast<int64_t>(chunk.text.size());
    const bool small = first_bytes < HeldOutSplit::kSmallTextBytes;
    HeldOutSplit split(options_.validation_fraction, options_.seed,
                       small ? std::optional(first_bytes) : std::nullopt);
    std::optional<ProgressBar> progress;
    if (options_.show_progress) progress.emplace("tokenizing", source_.total_file_bytes(), "B");

    for (std::vector<TextChunk> group = std::move(first); !group.empty(); group = read_group()) {
      std::vector<TextPiece> pieces;
      for (TextChunk& chunk : group) split.add(std::move(chunk), pieces);
      write_pieces(pieces);
      if (progress) progress->update(source_.file_bytes_read());
      if (shutdown_signal() != 0) return {.train = {}, .validation = {}, .interrupted = true};
    }
    if (validation_) validation_->finish();
    train_->finish();
    if (progress) progress->finish();
    return {.train = train_->info(),
            .validation = validation_ ? validation_->info() : TokenFileInfo{},
            .interrupted = false};
  }

 private:
  std::vector<TextChunk> read_group() {
    std::vector<TextChunk> group;
    int64_t bytes = 0;
    for (TextChunk chunk; bytes < kGroupBytes && source_.next(chunk);) {
      bytes += static_cast<int64_t>(chunk.text.size());
      group.push_back(std::move(chunk));
    }
    return group;
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
