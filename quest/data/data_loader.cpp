#include "quest/data/data_loader.h"

#include <algorithm>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/data/permutation.h"

namespace quest {
namespace {

constexpr uint64_t kOffsetStream =
    0x6f6666736574;  // keeps these draws apart from others of the seed

void check_options(const DataLoaderOptions& options) {
  QUEST_CHECK(options.batch >= 1, ErrorKind::kUsage, "batch is {}, allowed are 1 or more",
              options.batch);
  QUEST_CHECK(options.sequence_length >= 1, ErrorKind::kUsage,
              "sequence length is {}, allowed are 1 or more", options.sequence_length);
  QUEST_CHECK(options.world >= 1 && options.rank >= 0 && options.rank < options.world,
              ErrorKind::kUsage, "rank {} of {} does not exist", options.rank, options.world);
}

bool shifts(const DataLoaderOptions& options, int64_t tokens) {
  return options.shuffle && options.shift_windows && tokens >= 2 * options.sequence_length;
}

int64_t windows_of(const DataLoaderOptions& options, int64_t tokens) {
  return shifts(options, tokens) ? tokens / options.sequence_length - 1
                                 : (tokens - 1) / options.sequence_length;
}

std::vector<TokenFile> list_of(TokenFile file) {
  std::vector<TokenFile> files;
  files.push_back(std::move(file));
  return files;
}

}  // namespace

DataLoader::DataLoader(TokenFile file, const DataLoaderOptions& options)
    : DataLoader(list_of(std::move(file)), options) {}

DataLoader::DataLoader(std::vector<TokenFile> files, const DataLoaderOptions& options)
    : files_(std::move(files)), options_(options) {
  check_options(options_);
  QUEST_CHECK(!files_.empty(), ErrorKind::kUsage, "there are no token files to load");
  for (const TokenFile& file : files_) {
    QUEST_CHECK(file.info().tokenizer_fingerprint == files_[0].info().tokenizer_fingerprint &&
                    file.vocab_size() == files_[0].vocab_size(),
                ErrorKind::kData, "{} and {} were made with different tokenizers",
                files_[0].path().string(), file.path().string());
    first_window_.push_back(windows_);
    windows_ += windows_of(options_, file.token_count());
  }
  first_window_.push_back(windows_);
  QUEST_CHECK(windows_ >= 1, ErrorKind::kData,
              "{} has {} tokens: too few for a sequence of {} and its targets",
              files_[0].path().string(), files_[0].token_count(), options_.sequence_length);
  buffer_.resize(static_cast<size_t>(options_.sequence_length + 1));
}

DataLoader::Window DataLoader::window(int64_t sequence) const {
  const auto epoch = static_cast<uint64_t>(sequence / windows_);
  int64_t index = sequence % windows_;
  if (options_.shuffle) index = Permutation(windows_, options_.seed, epoch)(index);

  // The last file whose first window is not behind this one; files without windows are passed over.
  const auto next_file = std::upper_bound(first_window_.begin(), first_window_.end(), index);
  const auto file_index = static_cast<uint64_t>(next_file - first_window_.begin() - 1);
  const TokenFile& file = files_[file_index];
  int64_t start = (index - first_window_[file_index]) * options_.sequence_length;
  if (shifts(options_, file.token_count())) {
    const Philox random(options_.seed, kOffsetStream);
    start += static_cast<int64_t>(random.below(epoch * files_.size() + file_index,
                                               static_cast<uint64_t>(options_.sequence_length)));
  }
  return {&file, start};
}

DataLoader::Window DataLoader::window_of_batch(int64_t i) const {
  return window(position_ + i * options_.world + options_.rank);
}

Batch DataLoader::next() {
  const int64_t length = options_.sequence_length;
  Batch batch{.batch = options_.batch, .sequence_length = length, .inputs = {}, .targets = {}};
  batch.inputs.reserve(static_cast<size_t>(options_.batch * length));
  batch.targets.reserve(static_cast<size_t>(options_.batch * length));
  for (int64_t i = 0; i < options_.batch; ++i) {
    const Window at = window_of_batch(i);
    at.file->read(at.start, buffer_);
    batch.inputs.insert(batch.inputs.end(), buffer_.begin(), buffer_.end() - 1);
    batch.targets.insert(batch.targets.end(), buffer_.begin() + 1, buffer_.end());
    if (!options_.mask_document_starts) continue;
    // Targets are tokens start + 1 ... start + T.
    const std::span<const uint64_t> starts = at.file->document_starts();
    const auto first = static_cast<uint64_t>(at.start) + 1;
    auto document = std::lower_bound(starts.begin(), starts.end(), first);
    int32_t* targets = batch.targets.data() + i * length;
    for (; document != starts.end() && *document < first + static_cast<uint64_t>(length);
         ++document) {
      // A file opened without full proof may be out of order here.
      if (*document >= first) targets[*document - first] = kIgnoredTarget;
    }
  }
  position_ += options_.batch * options_.world;
  for (int64_t i = 0; i < options_.batch; ++i) {
    const Window at = window_of_batch(i);
    at.file->will_read(at.start, length + 1);
  }
  return batch;
}

void DataLoader::restore(const DataLoaderState& state) {
  QUEST_CHECK(state.position >= 0, ErrorKind::kData, "the data position {} is negative",
              state.position);
  options_.seed = state.seed;
  position_ = state.position;
}

}  // namespace quest
