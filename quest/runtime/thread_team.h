// The threads of the CPU engine: parallel sections of a few microseconds, no locks inside them.
//
// Workers wait for the next section by spinning for a fraction of a millisecond, then asleep.
// (Where there are more threads than cores they sleep at once.) The caller takes part, and waits
// only for workers that have begun: one that another program keeps off its core holds nothing up.
//
//   ThreadTeam team(2);
//   team.for_each(tiles, [&](int64_t tile, int thread) { ... });   // each once, any order
//
// A thread begins with its own share of the indexes, always the same one (share_of), so that what
// it wrote and read before is in its cache, and then helps the others.
//
// Results must not depend on which thread runs what. One caller at a time; not reentrant. The first
// exception of a section is rethrown by the caller after the section.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "quest/base/error.h"

namespace quest {

// Part `part` of n things that are dealt out evenly to `parts`, in order.
struct Share {
  int64_t begin = 0, end = 0;
};
constexpr Share share_of(int64_t n, int64_t part, int64_t parts) {
  return {n * part / parts, n * (part + 1) / parts};
}

class ThreadTeam {
 public:
  // 0: default_thread_count(). Negative or above 1024: kUsage. Threads that cannot be made:
  // kEnvironment.
  explicit ThreadTeam(int threads = 0);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(claims_.size()); }

  // f(i, thread) once for each i in [0, n).
  template <class Function>
  void for_each(int64_t n, const Function& f) {
    if (n == 1 || size() == 1) {
      for (int64_t i = 0; i < n; ++i) f(i, 0);
      return;
    }
    QUEST_ASSERT(n / size() < kIndexes, "{} indexes for {} threads", n, size());
    const uint64_t number = ++section_number_;
    const auto section = [&](int thread) {
      const int threads = size();
      // The caller looks at all shares, after which none has anything left.
      const int looks = thread == 0 ? threads : std::min(threads, kHelped);
      for (int step = 0; step < looks; ++step) {
        const int whose = (thread + step) % threads;
        const Share share = share_of(n, whose, threads);
        for (int64_t i; (i = claim(whose, number, share.end - share.begin)) >= 0;) {
          f(share.begin + i, thread);
        }
      }
    };
    using Body = decltype(section);
    run_section(
        [](const void* context, int thread) { (*static_cast<const Body*>(context))(thread); },
        &section);
  }

 private:
  static constexpr uint32_t kOpen = uint32_t{1} << 31;
  // A share's claims: the section's number, then how many indexes are taken. Of other sections'
  // claims only the number is looked at, so nobody has to clear them.
  static constexpr int kIndexBits = 24;
  static constexpr int64_t kIndexes = int64_t{1} << kIndexBits;
  struct alignas(64) Claims {
    std::atomic<uint64_t> value{0};
  };
  static constexpr int kHelped = 8;  // shares that a worker looks at, its own the first
  using Section = void (*)(const void* context, int thread);

  // The next index of the share of thread `whose`, which has `count`; -1: all are taken.
  int64_t claim(int whose, uint64_t section_number, int64_t count) {
    std::atomic<uint64_t>& claims = claims_[static_cast<size_t>(whose)].value;
    uint64_t seen = claims.load(std::memory_order_relaxed);
    for (;;) {
      const bool is_new = seen >> kIndexBits != section_number << kIndexBits >> kIndexBits;
      const int64_t index = is_new ? 0 : static_cast<int64_t>(seen & (kIndexes - 1));
      if (index >= count) return -1;
      const uint64_t taken = section_number << kIndexBits | static_cast<uint64_t>(index + 1);
      if (claims.compare_exchange_weak(seen, taken, std::memory_order_relaxed)) return index;
    }
  }
  void run_section(Section section, const void* context);
  void work(int thread);
  void execute(int thread) noexcept;
  void stop();

  std::vector<std::thread> workers_;
  Section section_ = nullptr;
  const void* context_ = nullptr;
  uint64_t section_number_ = 0;
  std::vector<Claims> claims_;  // of each thread's share
  std::exception_ptr exception_;
  std::atomic<bool> has_exception_{false};
  std::atomic<bool> is_stopping_{false};
  bool spins_ = false;
  // Each on a cache line of its own: all threads look at them while they wait.
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<uint32_t> state_{0};  // kOpen, and how many workers are inside
};

}  // namespace quest
