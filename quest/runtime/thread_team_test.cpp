#include "quest/runtime/thread_team.h"

#include <chrono>
#include <memory>

#include <gtest/gtest.h>

#include "quest/base/testing.h"

namespace quest {
namespace {

TEST(ThreadTeam, RunsEachIndexOnceForAnyNumberOfThreads) {
  for (const int threads : {1, 2, 3, 4, 7}) {
    ThreadTeam team(threads);
    EXPECT_EQ(team.size(), threads);
    for (int round = 0; round < 300; ++round) {
      const int64_t n = round % 23;
      std::vector<std::atomic<int>> counts(23);
      team.for_each(n, [&](int64_t i, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        counts[static_cast<size_t>(i)].fetch_add(1);
      });
      for (int64_t i = 0; i < 23; ++i) EXPECT_EQ(counts[static_cast<size_t>(i)], i < n ? 1 : 0);
    }
  }
}

TEST(ThreadTeam, WorkersThatSleepWakeAndTakePart) {
  ThreadTeam team(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));  // beyond the time of spinning
    // Each of 3 indexes waits for the others: it takes all threads.
    std::atomic<int> inside{0};
    team.for_each(3, [&](int64_t, int) {
      ++inside;
      while (inside.load() < 3) std::this_thread::yield();
    });
    EXPECT_EQ(inside, 3);
  }
}

TEST(ThreadTeam, SharesCoverAllOnceInOrder) {
  for (const int64_t n : {0, 1, 5, 8, 1000}) {
    for (const int64_t parts : {1, 3, 8, 11}) {
      int64_t next = 0;
      for (int64_t part = 0; part < parts; ++part) {
        const Share share = share_of(n, part, parts);
        EXPECT_EQ(share.begin, next);
        EXPECT_LE(share.end - share.begin, n / parts + 1);
        next = share.end;
      }
      EXPECT_EQ(next, n);
    }
  }
}

TEST(ThreadTeam, ThreadsBeginWithTheirOwnShare) {
  ThreadTeam team(3);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> inside{0};
    std::vector<int> first(3, -1);
    team.for_each(9, [&](int64_t i, int thread) {
      int& mine = first[static_cast<size_t>(thread)];
      if (mine >= 0) return;
      mine = static_cast<int>(i);
      ++inside;
      while (inside.load() < 3) std::this_thread::yield();  // so that all take part
    });
    EXPECT_EQ(first, (std::vector<int>{0, 3, 6}));
  }
}

// Nothing of a section happens after it has ended, though workers may come late.
TEST(ThreadTeam, LateWorkersTouchNothing) {
  ThreadTeam team(4);
  for (int round = 0; round < 3000; ++round) {
    auto counts = std::make_unique<std::atomic<int>[]>(5);
    std::atomic<int>* places = counts.get();
    team.for_each(5, [places](int64_t i, int) { places[i].fetch_add(1); });
    for (int i = 0; i < 5; ++i) ASSERT_EQ(places[i].load(), 1);
  }
}

TEST(ThreadTeam, RethrowsOneExceptionAndGoesOn) {
  ThreadTeam team(3);
  for (int round = 0; round < 20; ++round) {
    const auto fail = [&] {
      team.for_each(50, [&](int64_t i, int) {
        QUEST_CHECK(i % 10 != 3, ErrorKind::kNumeric, "row {} is bad", i);
      });
    };
    EXPECT_QUEST_ERROR(fail(), ErrorKind::kNumeric, "is bad");
    std::atomic<int64_t> sum{0};
    team.for_each(50, [&](int64_t i, int) { sum += i; });
    EXPECT_EQ(sum, 49 * 25);
  }
}

TEST(ThreadTeam, RefusesImpossibleNumbers) {
  EXPECT_QUEST_ERROR(ThreadTeam(-1), ErrorKind::kUsage, "-1");
  EXPECT_QUEST_ERROR(ThreadTeam(5000), ErrorKind::kUsage, "5000");
}

// Printed for a look, not asserted: the machine may be busy.
TEST(ThreadTeam, ASectionTakesMicroseconds) {
  ThreadTeam team(2);
  constexpr int kSections = 20000;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kSections; ++i) {
    team.for_each(2, [](int64_t, int) {});
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  RecordProperty("microseconds", std::to_string(took.count() / kSections * 1e6));
  std::printf("one section of 2 threads: %.2f microseconds\n", took.count() / kSections * 1e6);
}

}  // namespace
}  // namespace quest
