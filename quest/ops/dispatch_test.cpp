#include "quest/ops/dispatch.h"

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

// Without OpenMP, LibTorch's parallel_for is a plain call on the caller's thread.
TEST(Dispatch, RowsAreDealtOutToThreads) {
  const testing::ThreadCount count(3);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  std::vector<int> seen(600);
  parallel_rows(600, 1 << 20, [&](int64_t begin, int64_t end) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
    for (int64_t row = begin; row < end; ++row) ++seen[static_cast<size_t>(row)];
  });
  EXPECT_EQ(threads.size(), 3u);
  EXPECT_EQ(seen, std::vector<int>(600, 1));
}

TEST(Dispatch, LittleWorkStaysOnTheCallersThread) {
  const testing::ThreadCount count(3);
  int calls = 0;
  parallel_rows(10, 8, [&](int64_t begin, int64_t end) {
    ++calls;
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 10);
  });
  parallel_rows(0, 8, [&](int64_t, int64_t) { ++calls; });
  EXPECT_EQ(calls, 1);
}

TEST(Dispatch, ErrorsOfAThreadReachTheCaller) {
  const testing::ThreadCount count(3);
  EXPECT_QUEST_ERROR(parallel_rows(3, 1 << 20,
                                   [](int64_t begin, int64_t) {
                                     QUEST_CHECK(begin < 2, ErrorKind::kData, "row {}", begin);
                                   }),
                     ErrorKind::kData, "row 2");
}

TEST(Dispatch, ATaskThatTakesLongHoldsUpNoOther) {
  for (const int threads : {1, 2, 3}) {
    const testing::ThreadCount count(threads);
    std::atomic<int> others{0};
    std::vector<int> seen(20);
    parallel_tasks(20, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(end, begin + 1);
      ++seen[static_cast<size_t>(begin)];
      const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (begin == 0 && threads > 1 && others < 19) {
        ASSERT_LT(std::chrono::steady_clock::now(), limit) << "only " << others << " of 19 done";
        std::this_thread::yield();
      }
      if (begin > 0) ++others;
    });
    EXPECT_EQ(seen, std::vector<int>(20, 1)) << threads;
  }
  parallel_tasks(0, [](int64_t, int64_t) { FAIL() << "there is no task"; });
  const testing::ThreadCount count(2);
  EXPECT_QUEST_ERROR(parallel_tasks(3,
                                    [](int64_t begin, int64_t) {
                                      QUEST_CHECK(begin < 2, ErrorKind::kData, "task {}", begin);
                                    }),
                     ErrorKind::kData, "task 2");
}

TEST(Dispatch, OtherTypesAreErrors) {
  EXPECT_EQ(with_kernel_type(at::kFloat, "f", [](auto e) { return sizeof(e); }), 4u);
  EXPECT_EQ(with_kernel_type(at::kBFloat16, "f", [](auto e) { return sizeof(e); }), 2u);
  EXPECT_QUEST_ERROR(with_kernel_type(at::kInt, "f", [](auto e) { return sizeof(e); }),
                     ErrorKind::kUsage, "[f] element type is Int");
}

}  // namespace
}  // namespace quest::ops
