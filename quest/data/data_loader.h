// Batches of token windows in a pseudo-random order whose whole state is two integers.
//
// An epoch's windows are [o + kT, o + kT + T] of each file (T inputs and the targets, shifted by
// one), k = 0, 1, ...; each comes exactly once per epoch. Their order is a keyed permutation
// computed index by index (permutation.h), so that no list is in memory and any position is reached
// at once. The offset o, drawn per epoch and file in [0, T), moves the windows' borders from epoch
// to epoch; a file with n tokens has floor(n / T) - 1 windows then. Without shift, or in a file of
// fewer than 2T tokens, o = 0 and there are floor((n - 1) / T). Windows do not span files.
//
// The global order depends on seed and files alone. A global batch is the next batch * world
// sequences; rank r gets those numbered r, r + world, ... of it. So 1 rank with batch 8 and 4 ranks
// with batch 2 see the same sequences at the same step.
//
// Documents are packed: a window may hold the end of one, its end-of-document token and the
// beginning of another. With mask_document_starts the target that would be predicted from another
// document (each document's first token) is kIgnoredTarget.
//
//   DataLoader loader(TokenFile::open("data/train.qtok"), {.batch = 8, .sequence_length = 512});
//   Batch batch = loader.next();              // inputs, targets: (8, 512)
//   DataLoaderState state = loader.state();   // into the checkpoint
//   loader.restore(state);                    // goes on there
//
// Thread rules: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quest/data/token_file.h"

namespace quest {

inline constexpr int32_t kIgnoredTarget = -100;

struct DataLoaderOptions {
  int64_t batch = 8;  // sequences per rank and call
  int64_t sequence_length = 512;
  uint64_t seed = 0;
  int64_t rank = 0;
  int64_t world = 1;
  bool shuffle = true;        // false: reading order, no shift
  bool shift_windows = true;  // a new offset per epoch
  bool mask_document_starts = false;
};

struct Batch {
  int64_t batch = 0;             // B
  int64_t sequence_length = 0;   // T
  std::vector<int32_t> inputs;   // (B, T)
  std::vector<int32_t> targets;  // (B, T), kIgnoredTarget where masked
};

struct DataLoaderState {
  uint64_t seed = 0;
  int64_t position = 0;  // sequences handed out to all ranks since the beginning

  bool operator==(const DataLoaderState&) const = default;
};

class DataLoader {
 public:
  // Throws kUsage for options out of range, kData if the files differ in tokenizer or hold no
  // window.
  DataLoader(std::vector<TokenFile> files, const DataLoaderOptions& options);
  DataLoader(TokenFile file, const DataLoaderOptions& options);

  // Also has the system fetch the next batch's tokens from the disk, while this one is computed
  // with.
  Batch next();

  DataLoaderState state() const { return {options_.seed, position_}; }
  // Goes on exactly where the state was taken. Throws kData for a negative position.
  void restore(const DataLoaderState& state);

  int64_t windows_per_epoch() const { return windows_; }
  // Epoch of the next sequence, from 0, and how many epochs lie behind (with fraction).
  int64_t epoch() const { return position_ / windows_; }
  double epochs_done() const {
    return static_cast<double>(position_) / static_cast<double>(windows_);
  }
  const std::vector<TokenFile>& files() const { return files_; }
  const DataLoaderOptions& options() const { return options_; }

 private:
  struct Window {
    const TokenFile* file;
    int64_t start;
  };
  Window window(int64_t sequence) const;
  Window window_of_batch(int64_t i) const;  // sequence i of the batch that comes next

  std::vector<TokenFile> files_;
  DataLoaderOptions options_;
  std::vector<int64_t> first_window_;  // of each file; one more entry: all windows
  int64_t windows_ = 0;
  int64_t position_ = 0;
  std::vector<int32_t> buffer_;  // (T + 1)
};

}  // namespace quest
