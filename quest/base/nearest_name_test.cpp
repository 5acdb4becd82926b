#include "quest/base/nearest_name.h"

#include <gtest/gtest.h>

namespace quest {
namespace {

TEST(NearestName, EditDistanceCountsLetters) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("sitting", "kitten"), 3u);
}

TEST(NearestName, LaterWordsMayBeLeftOut) {
  EXPECT_EQ(name_distance("btach", "batch_size"), 3u);
  EXPECT_EQ(name_distance("btach", "steps"), 4u);
  EXPECT_EQ(name_distance("batch_size", "batch_size"), 0u);
  EXPECT_EQ(name_distance("full_at", "full_at_end"), 1u);
}

TEST(NearestName, TheOwnTableComesFirst) {
  EXPECT_EQ(key_distance("train.btach", "train.batch_size"), 3u);
  EXPECT_EQ(key_distance("train.btach", "eval.batch_size"), 5u);
  EXPECT_EQ(key_distance("lr", "optimizer.lr"), 2u);
  EXPECT_EQ(key_distance("modl.hidden_size", "model.hidden_size"), 1u);
  EXPECT_EQ(key_distance("lr", "lr"), 0u);
}

}  // namespace
}  // namespace quest
