// The threads of the CPU engine: parallel sections of a few microseconds, no locks inside them.
//
// Workers wait for the next section by spinning for a fraction of a millisecond, then asleep.
// (Where there are more threads than cores they sleep at once.) The caller takes part, and waits
// only for workers that have begun: one that another program keeps off its core holds nothing up.
//
//   ThreadTeam team(2);
//   team.for_each(tiles, [&](int64_t tile, int thread) { ... });   // each once, any order
//
// Results must not depend on which thread runs what. One caller at a time; not reentrant. The first
// exception of a section is rethrown by the caller after the section.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

namespace quest {

class ThreadTeam {
 public:
  // 0: default_thread_count(). Negative or above 1024: kUsage. Threads that cannot be made:
  // kEnvironment.
  explicit ThreadTeam(int threads = 0);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // f(i, thread) once for each i in [0, n).
  template <class Function>
  void for_each(int64_t n, const Function& f) {
    if (n == 1 || size() == 1) {
      for (int64_t i = 0; i < n; ++i) f(i, 0);
      return;
    }
    next_.store(0, std::memory_order_relaxed);
    const auto section = [&](int thread) {
      for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < n;) f(i, thread);
    };
    using Body = decltype(section);
    run_section(
        [](const void* context, int thread) { (*static_cast<const Body*>(context))(thread); },
        &section);
  }

 private:
  static constexpr uint32_t kOpen = uint32_t{1} << 31;
  using Section = void (*)(const void* context, int thread);
  void run_section(Section section, const void* context);
  void work(int thread);
  void execute(int thread) noexcept;
  void stop();

  std::vector<std::thread> workers_;
  Section section_ = nullptr;
  const void* context_ = nullptr;
  std::exception_ptr exception_;
  std::atomic<bool> has_exception_{false};
  std::atomic<bool> is_stopping_{false};
  bool spins_ = false;
  // Each on a cache line of its own: all threads look at them while they wait.
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<uint32_t> state_{0};  // kOpen, and how many workers are inside
  alignas(64) std::atomic<int64_t> next_{0};
};

}  // namespace quest
