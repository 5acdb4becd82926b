#include "quest/runtime/thread_team.h"

#include <chrono>
#include <system_error>
#include <utility>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "quest/base/cpu_features.h"
#include "quest/base/error.h"
#include "quest/base/thread_pool.h"

namespace quest {
namespace {

constexpr int kMaxThreads = 1024;
constexpr std::chrono::microseconds kSpinTime{200};

void pause_briefly() {
#ifdef __x86_64__
  _mm_pause();
#endif
}

// Returns once `is_done(value)` holds: spins for a while if there is a core to do so, then sleeps
// until the value changes.
template <class Condition>
void wait_until(const std::atomic<uint32_t>& value, bool spins, const Condition& is_done) {
  for (int round = 0; round < 64; ++round) {  // the usual case takes no look at the clock
    if (is_done(value.load(std::memory_order_acquire))) return;
    pause_briefly();
  }
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  while (spins && std::chrono::steady_clock::now() < end) {
    for (int round = 0; round < 32; ++round) {
      if (is_done(value.load(std::memory_order_acquire))) return;
      pause_briefly();
    }
  }
  for (uint32_t seen; !is_done(seen = value.load(std::memory_order_acquire));) {
    value.wait(seen, std::memory_order_acquire);
  }
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) {
  QUEST_CHECK(threads >= 0 && threads <= kMaxThreads, ErrorKind::kUsage,
              "the number of threads is {}, allowed are 0 (all cores) to {}", threads, kMaxThreads);
  if (threads == 0) threads = default_thread_count();
  spins_ = threads <= cpu_features().usable_cores;
  claims_ = std::vector<Claims>(static_cast<size_t>(threads));
  try {
    workers_.reserve(static_cast<size_t>(threads - 1));
    for (int i = 1; i < threads; ++i) {
      workers_.emplace_back([this, i] { work(i); });
    }
  } catch (const std::system_error& error) {
    const size_t made = workers_.size();
    stop();
    QUEST_THROW(ErrorKind::kEnvironment,
                "cannot start thread {} of {}: {}; ask for fewer threads (--threads)", made + 2,
                threads, error.what());
  }
}

ThreadTeam::~ThreadTeam() { stop(); }

void ThreadTeam::stop() {
  is_stopping_.store(true);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadTeam::execute(int thread) noexcept {
  try {
    section_(context_, thread);
  } catch (...) {
    if (!has_exception_.exchange(true)) exception_ = std::current_exception();
  }
}

void ThreadTeam::work(int thread) {
  for (uint32_t seen = 0;;) {
    wait_until(generation_, spins_, [&](uint32_t now) { return now != seen; });
    seen = generation_.load(std::memory_order_acquire);
    if (is_stopping_.load()) return;
    // Any open section will do: it may already be a later one than was seen.
    uint32_t state = state_.load(std::memory_order_relaxed);
    while ((state & kOpen) != 0 &&
           !state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
    }
    if ((state & kOpen) == 0) continue;
    execute(thread);
    // The last one out of a closed section wakes the caller.
    if (state_.fetch_sub(1, std::memory_order_acq_rel) == 1) state_.notify_one();
  }
}

void ThreadTeam::run_section(Section section, const void* context) {
  section_ = section;
  context_ = context;
  state_.store(kOpen, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  execute(0);
  // All work has been taken. Who has not come yet need not; who is inside may use `context`.
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  wait_until(state_, spins_, [](uint32_t state) { return state == 0; });
  if (has_exception_.load()) {
    has_exception_.store(false);
    std::rethrow_exception(std::exchange(exception_, nullptr));
  }
}

}  // namespace quest
