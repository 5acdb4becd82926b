#include "quest/data/data_loader.h"

#include <algorithm>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

using testing::TemporaryFolder;

// Token i is first + i, so that a window tells where it is from. Documents begin at `starts`.
TokenFile counting_file(const TemporaryFolder& folder, const std::string& name, int32_t count,
                        int32_t first = 0, const std::set<int32_t>& starts = {}) {
  TokenFileInfo info;
  info.vocab_size = 1000000;
  info.tokenizer_fingerprint = std::string(32, 'a');
  TokenFileWriter writer(folder / name, info);
  writer.begin_document();
  for (int32_t i = 0; i < count; ++i) {
    if (starts.contains(i)) writer.begin_document();
    const int32_t token = first + i;
    writer.append(std::span(&token, 1), 1);
  }
  writer.finish();
  return TokenFile::open(folder / name);
}

template <class... File>
std::vector<TokenFile> files_of(File&&... file) {
  std::vector<TokenFile> files;
  (files.push_back(std::forward<File>(file)), ...);
  return files;
}

std::vector<int32_t> first_tokens(const Batch& batch) {
  std::vector<int32_t> firsts;
  for (int64_t b = 0; b < batch.batch; ++b) {
    firsts.push_back(batch.inputs[static_cast<size_t>(b * batch.sequence_length)]);
  }
  return firsts;
}

TEST(DataLoader, TargetsAreTheNextTokens) {
  TemporaryFolder folder;
  DataLoader loader(counting_file(folder, "a.qtok", 1000), {.batch = 3, .sequence_length = 16});
  for (int step = 0; step < 50; ++step) {
    const Batch batch = loader.next();
    ASSERT_EQ(batch.inputs.size(), 48u);
    ASSERT_EQ(batch.targets.size(), 48u);
    for (size_t i = 0; i < 48; ++i) {
      ASSERT_EQ(batch.targets[i], batch.inputs[i] + 1);
      if (i % 16 != 0) {
        ASSERT_EQ(batch.inputs[i], batch.inputs[i - 1] + 1);
      }
    }
  }
}

TEST(DataLoader, EachWindowComesOncePerEpoch) {
  TemporaryFolder folder;
  for (const int32_t count : {9, 16, 17, 100, 4099}) {
    for (const bool shift : {false, true}) {
      DataLoader loader(counting_file(folder, "a.qtok", count),
                        {.batch = 1, .sequence_length = 8, .seed = 5, .shift_windows = shift});
      for (int epoch = 0; epoch < 3; ++epoch) {
        EXPECT_EQ(loader.epoch(), epoch);
        std::set<int32_t> starts;
        for (int64_t i = 0; i < loader.windows_per_epoch(); ++i) {
          starts.insert(first_tokens(loader.next())[0]);
        }
        ASSERT_EQ(static_cast<int64_t>(starts.size()), loader.windows_per_epoch());
        // All windows of an epoch lie on one grid of width 8, without holes.
        ASSERT_EQ(*starts.rbegin() - *starts.begin(), 8 * (loader.windows_per_epoch() - 1));
        for (const int32_t start : starts) ASSERT_EQ((start - *starts.begin()) % 8, 0);
        if (!shift) {
          ASSERT_EQ(*starts.begin(), 0);
        }
      }
      EXPECT_EQ(loader.epochs_done(), 3.0);
    }
  }
}

TEST(DataLoader, WindowsMoveFromEpochToEpoch) {
  TemporaryFolder folder;
  DataLoader loader(counting_file(folder, "a.qtok", 10000), {.batch = 1, .sequence_length = 64});
  std::set<int32_t> offsets;
  for (int epoch = 0; epoch < 10; ++epoch) {
    for (int64_t i = 0; i < loader.windows_per_epoch(); ++i) {
      offsets.insert(first_tokens(loader.next())[0] % 64);
    }
  }
  EXPECT_GE(offsets.size(), 7u);
}

TEST(DataLoader, ReadsInOrderWithoutShuffle) {
  TemporaryFolder folder;
  DataLoader loader(
      files_of(counting_file(folder, "a.qtok", 33), counting_file(folder, "b.qtok", 5, 500),
               counting_file(folder, "c.qtok", 17, 1000)),
      {.batch = 7, .sequence_length = 8, .shuffle = false});
  EXPECT_EQ(loader.windows_per_epoch(), 6);  // the second file has none
  EXPECT_EQ(first_tokens(loader.next()), (std::vector<int32_t>{0, 8, 16, 24, 1000, 1008, 0}));
  EXPECT_EQ(loader.epoch(), 1);
}

TEST(DataLoader, CoversSeveralFiles) {
  TemporaryFolder folder;
  DataLoader loader(
      files_of(counting_file(folder, "a.qtok", 330), counting_file(folder, "b.qtok", 170, 1000)),
      {.batch = 1, .sequence_length = 10});
  std::map<bool, int> windows;
  for (int64_t i = 0; i < loader.windows_per_epoch(); ++i) {
    const Batch batch = loader.next();
    ++windows[batch.inputs[0] >= 1000];
    EXPECT_EQ(batch.targets[9] - batch.inputs[0], 10);  // no window spans files
  }
  EXPECT_EQ(windows[false], 32);
  EXPECT_EQ(windows[true], 16);
}

TEST(DataLoader, AnyNumberOfRanksSeesTheSameOrder) {
  TemporaryFolder folder;
  std::map<int64_t, std::vector<std::vector<int32_t>>> by_world;
  for (const int64_t world : {1, 2, 4}) {
    std::vector<std::vector<int32_t>> steps(60, std::vector<int32_t>(8));
    for (int64_t rank = 0; rank < world; ++rank) {
      DataLoader loader(
          counting_file(folder, "a.qtok", 999),
          {.batch = 8 / world, .sequence_length = 8, .seed = 3, .rank = rank, .world = world});
      for (auto& step : steps) {
        const auto firsts = first_tokens(loader.next());
        for (size_t i = 0; i < firsts.size(); ++i) {
          step[i * static_cast<size_t>(world) + static_cast<size_t>(rank)] = firsts[i];
        }
      }
    }
    by_world[world] = steps;
  }
  EXPECT_EQ(by_world[1], by_world[2]);
  EXPECT_EQ(by_world[1], by_world[4]);
}

TEST(DataLoader, SeedChangesTheOrder) {
  TemporaryFolder folder;
  const auto order = [&](uint64_t seed) {
    DataLoader loader(counting_file(folder, "a.qtok", 999),
                      {.batch = 50, .sequence_length = 8, .seed = seed});
    return loader.next().inputs;
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
}

TEST(DataLoader, RestoreGoesOnExactly) {
  TemporaryFolder folder;
  const DataLoaderOptions options{.batch = 3, .sequence_length = 8, .seed = 9};
  DataLoader loader(counting_file(folder, "a.qtok", 500), options);
  std::vector<DataLoaderState> states;
  std::vector<Batch> batches;
  for (int step = 0; step < 100; ++step) {  // almost five epochs, in batches across their ends
    states.push_back(loader.state());
    batches.push_back(loader.next());
  }
  for (const int from : {0, 1, 19, 20, 21, 57, 99}) {
    DataLoaderOptions other = options;
    other.seed = 1234;  // the state brings its own
    DataLoader resumed(counting_file(folder, "a.qtok", 500), other);
    resumed.restore(states[static_cast<size_t>(from)]);
    for (int step = from; step < 100; ++step) {
      const Batch batch = resumed.next();
      ASSERT_EQ(batch.inputs, batches[static_cast<size_t>(step)].inputs);
      ASSERT_EQ(batch.targets, batches[static_cast<size_t>(step)].targets);
    }
    EXPECT_EQ(resumed.state(), loader.state());
  }
  EXPECT_QUEST_ERROR(loader.restore({.seed = 0, .position = -1}), ErrorKind::kData, "-1");
}

TEST(DataLoader, MasksTheFirstTokenOfADocument) {
  TemporaryFolder folder;
  const std::set<int32_t> starts = {3, 8, 9, 24, 32};
  DataLoader loader(
      counting_file(folder, "a.qtok", 33, 0, starts),
      {.batch = 4, .sequence_length = 8, .shuffle = false, .mask_document_starts = true});
  const Batch batch = loader.next();
  for (int32_t i = 0; i < 32; ++i) {
    const int32_t target = i + 1;
    EXPECT_EQ(batch.inputs[static_cast<size_t>(i)], i);
    EXPECT_EQ(batch.targets[static_cast<size_t>(i)],
              starts.contains(target) ? kIgnoredTarget : target);
  }
}

TEST(DataLoader, RefusesWhatCannotBe) {
  TemporaryFolder folder;
  const auto load = [&](const DataLoaderOptions& options) {
    DataLoader(counting_file(folder, "a.qtok", 20), options);
  };
  EXPECT_QUEST_ERROR(load({.batch = 0}), ErrorKind::kUsage, "batch is 0");
  EXPECT_QUEST_ERROR(load({.sequence_length = 0}), ErrorKind::kUsage, "sequence length is 0");
  EXPECT_QUEST_ERROR(load({.rank = 2, .world = 2}), ErrorKind::kUsage, "rank 2 of 2");
  EXPECT_QUEST_ERROR(load({.sequence_length = 20}), ErrorKind::kData, "20 tokens");
  EXPECT_QUEST_ERROR(DataLoader(std::vector<TokenFile>(), {}), ErrorKind::kUsage, "no token files");

  TokenFileInfo info;
  info.vocab_size = 1000000;
  info.tokenizer_fingerprint = std::string(32, 'b');
  TokenFileWriter writer(folder / "other.qtok", info);
  writer.begin_document();
  writer.append(std::vector<int32_t>(20, 1), 1);
  writer.finish();
  std::vector<TokenFile> files;
  files.push_back(counting_file(folder, "a.qtok", 20));
  files.push_back(TokenFile::open(folder / "other.qtok"));
  EXPECT_QUEST_ERROR(DataLoader(std::move(files), {.sequence_length = 4}), ErrorKind::kData,
                     "different tokenizers");
}

}  // namespace
}  // namespace quest
