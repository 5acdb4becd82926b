#include "quest/runtime/packed_linear.h"

#include <gtest/gtest.h>

namespace quest {
namespace {

TEST(PackedLinear, TasksCoverAllColumnsInWholeTiles) {
  for (const int64_t n : {1, 15, 16, 17, 261, 960, 49152}) {
    for (const int64_t rows : {1, 8, 9, 512}) {
      for (const int threads : {1, 2, 3, 8, 128}) {
        const ColumnTasks tasks = column_tasks(n, 2048, rows, threads);
        int64_t next = 0;
        for (int64_t i = 0; i < tasks.count; ++i) {
          const auto [n0, n1] = tasks.columns(i);
          ASSERT_EQ(n0, next);
          ASSERT_EQ(n0 % kTileRows, 0);
          ASSERT_GT(n1, n0);
          next = n1;
        }
        ASSERT_EQ(next, n) << rows << " rows, " << threads << " threads";
      }
    }
  }
}

}  // namespace
}  // namespace quest
