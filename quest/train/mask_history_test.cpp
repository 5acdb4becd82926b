#include "quest/train/mask_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/safetensors.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Bits = std::vector<uint8_t>;

std::vector<std::pair<int64_t, double>> pairs(const MaskHistory& history, const Bits& bits,
                                              int64_t weights) {
  std::vector<std::pair<int64_t, double>> out;
  for (const auto& r : history.retained(bits, weights)) out.emplace_back(r.since_step, r.retained);
  return out;
}

TEST(MaskHistory, CountsWhatIsMaskedStill) {
  MaskHistory history(4);
  // Rows of 4 weights: the upper half of each byte is padding. Of 40 weights two of each row are
  // masked, in the last row none.
  Bits first(10, 0b0101);
  first.back() = 0b1111;
  EXPECT_THAT(history.retained(first, 40), IsEmpty());
  history.add(0, first);
  using P = std::pair<int64_t, double>;
  EXPECT_THAT(pairs(history, first, 40), ElementsAre(P(0, 1.0)));
  EXPECT_THAT(pairs(history, Bits(10, 0b1111), 40), ElementsAre(P(0, 0.0)));
  EXPECT_THAT(pairs(history, Bits(10, 0b0111), 40), ElementsAre(P(0, 0.5)));
  EXPECT_THAT(pairs(history, Bits(10, 0), 40), ElementsAre(P(0, 1.0)));
  Bits one(10, 0b1111);
  one[9] = 0b0111;
  history.add(7, one);
  EXPECT_THAT(pairs(history, first, 40), ElementsAre(P(0, 1.0), P(7, 0.0)));
  // A step at which nothing was masked has no share.
  history.add(9, Bits(10, 0b1111));
  EXPECT_EQ(history.retained(first, 40).size(), 2u);
}

TEST(MaskHistory, KeepsStepsSpreadOverTheRun) {
  const auto kept = [](int64_t keep, int64_t steps) {
    MaskHistory history(keep);
    for (int64_t k = 0; k < steps; ++k) history.add(10 * k, Bits(1, 1));
    return history.steps();
  };
  EXPECT_THAT(kept(0, 5), IsEmpty());
  EXPECT_THAT(kept(1, 5), ElementsAre(0));
  EXPECT_THAT(kept(4, 4), ElementsAre(0, 10, 20, 30));
  EXPECT_THAT(kept(4, 5), ElementsAre(0, 20, 40));
  EXPECT_THAT(kept(4, 8), ElementsAre(0, 20, 40, 60));
  EXPECT_THAT(kept(4, 9), ElementsAre(0, 40, 80));
  EXPECT_THAT(kept(3, 50), ElementsAre(0, 320));
}

TEST(MaskHistory, SavedAndLoadedItGoesOnTheSame) {
  const testing::TemporaryFolder folder;
  const auto path = folder / "masks.safetensors";
  MaskHistory straight(3);
  for (int64_t k = 0; k < 20; ++k) {
    MaskHistory resumed(3);
    straight.save(path);
    resumed.load(path, 3);
    EXPECT_EQ(resumed.steps(), straight.steps());
    const Bits bits = {static_cast<uint8_t>(37 * k), 255, static_cast<uint8_t>(k)};
    resumed.add(100 * k, bits);
    straight.add(100 * k, bits);
    EXPECT_EQ(resumed.steps(), straight.steps());
    EXPECT_EQ(pairs(resumed, Bits(3, 0), 24), pairs(straight, Bits(3, 0), 24));
  }
  // With less room than before; and none.
  MaskHistory smaller(1), none(0);
  smaller.load(path, 3);
  EXPECT_THAT(smaller.steps(), ElementsAre(0));
  none.load(path, 3);
  EXPECT_THAT(none.steps(), IsEmpty());
  // A checkpoint without masks.
  straight.load(folder / "missing", 3);
  EXPECT_THAT(straight.steps(), IsEmpty());
  straight.save(folder / "empty");
  EXPECT_FALSE(std::filesystem::exists(folder / "empty"));
}

TEST(MaskHistory, WrongFilesAreRefused) {
  const testing::TemporaryFolder folder;
  MaskHistory history(3);
  history.add(0, Bits(5, 1));
  history.save(folder / "masks");
  EXPECT_QUEST_ERROR(history.load(folder / "masks", 6), ErrorKind::kData, "no mask of 6 bytes");
  EXPECT_QUEST_ERROR(
      history.load(folder.write("cut", read_file(folder / "masks").substr(0, 50)), 5),
      ErrorKind::kData, "cut");
  const auto write = [&](const char* name, const char* added, const char* stride,
                         const char* mask = "mask.step-00000003") {
    SafetensorsWriter file(folder / name);
    file.set_metadata("added", added);
    file.set_metadata("stride", stride);
    const Bits bits(5, 1);
    file.add<uint8_t>(mask, {5}, bits);
    file.finish();
    return folder / name;
  };
  history.load(write("good", "2", "2"), 5);
  EXPECT_THAT(history.steps(), ElementsAre(3));
  EXPECT_QUEST_ERROR(history.load(write("a", "x", "1"), 5), ErrorKind::kData, "'added'");
  EXPECT_QUEST_ERROR(history.load(write("b", "1", "0"), 5), ErrorKind::kData, "stride 0");
  EXPECT_QUEST_ERROR(history.load(write("c", "3", "2"), 5), ErrorKind::kData, "1 masks");
  EXPECT_QUEST_ERROR(history.load(write("d", "9223372036854775807", "1"), 5), ErrorKind::kData,
                     "1 masks");
  for (const char* mask : {"mask.step-", "mask.step--1", "mask.step-99999999999999999999"}) {
    EXPECT_QUEST_ERROR(history.load(write("e", "1", "1", mask), 5), ErrorKind::kData, mask);
  }
}

}  // namespace
}  // namespace quest::train
