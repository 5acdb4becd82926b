#include "quest/base/thread_pool.h"

#include <atomic>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/cpu_features.h"
#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

// Sets or (null) unsets a variable and puts it back.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    value == nullptr ? unsetenv(name) : setenv(name, value, 1);
  }
  ~ScopedVariable() { old_ ? setenv(name_, old_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

TEST(ThreadPool, CallsEachIndexOnce) {
  for (const int threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int64_t n : {0, 1, 2, 5, 1000, 20001}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(n));
      pool.parallel_for(n, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
      for (const auto& count : calls) ASSERT_EQ(count, 1);
    }
    pool.parallel_for(-5, [](int64_t) { FAIL(); });
  }
}

TEST(ThreadPool, ManyShortLoops) {
  ThreadPool pool(3);
  int64_t total = 0;
  for (int round = 0; round < 3000; ++round) {
    std::atomic<int64_t> sum{0};
    pool.parallel_for(5, [&](int64_t i) { sum += i; });
    total += sum;
  }
  EXPECT_EQ(total, 30000);
}

TEST(ThreadPool, RethrowsAndWorksAfterwards) {
  ThreadPool pool(3);
  for (int round = 0; round < 100; ++round) {
    EXPECT_QUEST_ERROR(pool.parallel_for(100,
                                         [](int64_t i) {
                                           if (i == 37)
                                             QUEST_THROW(ErrorKind::kNumeric, "index {}", i);
                                         }),
                       ErrorKind::kNumeric, "index 37");
  }
  std::atomic<int> calls{0};
  pool.parallel_for(100, [&](int64_t) { ++calls; });
  EXPECT_EQ(calls, 100);
}

TEST(ThreadPool, LeavesOutWhatHadNotBegun) {
  ThreadPool pool(2);
  std::atomic<int64_t> calls{0};
  EXPECT_THROW(pool.parallel_for(1000000,
                                 [&](int64_t) {
                                   ++calls;
                                   throw std::runtime_error("stop");
                                 }),
               std::runtime_error);
  EXPECT_LE(calls, 2);
}

TEST(ThreadPool, ServesSeveralCallers) {
  ThreadPool pool(2);
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) pool.parallel_for(10, [&](int64_t i) { sum += i; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * 100 * 45);
}

TEST(ThreadPool, AnotherPoolMayBeUsedInside) {
  ThreadPool outer(2);
  std::atomic<int> calls{0};
  outer.parallel_for(3, [&](int64_t) {
    ThreadPool inner(2);
    inner.parallel_for(4, [&](int64_t) { ++calls; });
  });
  EXPECT_EQ(calls, 12);
}

TEST(ThreadPoolDeathTest, NestedUseIsABug) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  for (const int threads : {1, 2}) {
    EXPECT_DEATH(
        {
          ThreadPool pool(threads);
          pool.parallel_for(2, [&](int64_t) { pool.parallel_for(1, [](int64_t) {}); });
        },
        "inside parallel_for");
  }
}

TEST(ThreadPool, RefusesImpossibleSizes) {
  EXPECT_QUEST_ERROR(ThreadPool(-1), ErrorKind::kUsage, "-1");
  EXPECT_QUEST_ERROR(ThreadPool(1025), ErrorKind::kUsage, "1025");
}

TEST(DefaultThreadCount, ReadsTheEnvironment) {
  const ScopedVariable no_own("QUEST_NUM_THREADS", nullptr);
  const ScopedVariable no_openmp("OMP_NUM_THREADS", nullptr);
  EXPECT_EQ(default_thread_count(), cpu_features().usable_cores);
  {
    const ScopedVariable openmp("OMP_NUM_THREADS", "5,2");
    EXPECT_EQ(default_thread_count(), 5);
    const ScopedVariable own("QUEST_NUM_THREADS", "3");
    EXPECT_EQ(default_thread_count(), 3);
  }
  const ScopedVariable strange("OMP_NUM_THREADS", "many");
  EXPECT_EQ(default_thread_count(), cpu_features().usable_cores);
  for (const char* wrong : {"0", "-1", "x", "3x", "1.5", "1025", "99999999999", " 3"}) {
    const ScopedVariable own("QUEST_NUM_THREADS", wrong);
    EXPECT_QUEST_ERROR(default_thread_count(), ErrorKind::kUsage, wrong);
  }
}

}  // namespace
}  // namespace quest
