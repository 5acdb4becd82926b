#include "quest/base/thread_pool.h"

#include <atomic>
#include <charconv>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "quest/base/cpu_features.h"
#include "quest/base/error.h"

namespace quest {

namespace {

constexpr int kMaxThreads = 1024;

// The pool whose function this thread is running, to catch nested use.
thread_local const void* t_running_pool = nullptr;

// The first number of "8" or, as OMP_NUM_THREADS may be, "8,2".
std::optional<int> thread_count_from(const char* text, bool list_allowed) {
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, value);
  const bool whole = rest == end || (list_allowed && *rest == ',');
  if (error != std::errc() || !whole || value < 1 || value > kMaxThreads) return std::nullopt;
  return value;
}

}  // namespace

struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  std::mutex caller_mutex;  // one parallel_for at a time

  std::mutex mutex;
  std::condition_variable work_ready, work_done;
  uint64_t generation = 0;  // counts calls of parallel_for; tells workers that there is work
  size_t busy_workers = 0;
  bool stopping = false;
  std::exception_ptr exception;

  const std::function<void(int64_t)>* f = nullptr;
  int64_t n = 0;
  std::atomic<int64_t> next{0};

  // Takes indexes until none is left.
  void take_indexes() {
    const void* outer = std::exchange(t_running_pool, this);
    try {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) (*f)(i);
    } catch (...) {
      next.store(n, std::memory_order_relaxed);
      const std::lock_guard lock(mutex);
      if (exception == nullptr) exception = std::current_exception();
    }
    t_running_pool = outer;
  }

  void worker_loop() {
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      work_ready.wait(lock, [&] { return stopping || generation != seen; });
      if (stopping) return;
      seen = generation;
      lock.unlock();
      take_indexes();
      lock.lock();
      if (--busy_workers == 0) work_done.notify_one();
    }
  }

  void run(int64_t count, const std::function<void(int64_t)>& function) {
    {
      const std::lock_guard lock(mutex);
      f = &function;
      n = count;
      next.store(0, std::memory_order_relaxed);
      exception = nullptr;
      busy_workers = workers.size();
      ++generation;
    }
    work_ready.notify_all();
    take_indexes();
    std::unique_lock lock(mutex);
    work_done.wait(lock, [&] { return busy_workers == 0; });
    if (exception != nullptr) std::rethrow_exception(std::exchange(exception, nullptr));
  }

  void stop() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    work_ready.notify_all();
    for (std::thread& worker : workers) worker.join();
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  QUEST_CHECK(threads >= 0 && threads <= kMaxThreads, ErrorKind::kUsage,
              "the number of threads is {}, allowed are 0 (all cores) to {}", threads, kMaxThreads);
  if (threads == 0) threads = default_thread_count();
  try {
    impl_->workers.reserve(static_cast<size_t>(threads - 1));
    for (int i = 1; i < threads; ++i) {
      impl_->workers.emplace_back([impl = impl_.get()] { impl->worker_loop(); });
    }
  } catch (const std::system_error& error) {
    const size_t made = impl_->workers.size();
    impl_->stop();
    QUEST_THROW(ErrorKind::kEnvironment,
                "cannot start thread {} of {}: {}; ask for fewer threads (QUEST_NUM_THREADS)",
                made + 2, threads, error.what());
  }
}

ThreadPool::~ThreadPool() { impl_->stop(); }

int ThreadPool::size() const { return static_cast<int>(impl_->workers.size()) + 1; }

void ThreadPool::parallel_for(int64_t n, const std::function<void(int64_t)>& f) {
  QUEST_ASSERT(t_running_pool != impl_.get(), "parallel_for called from inside parallel_for");
  if (n <= 0) return;
  const std::lock_guard caller(impl_->caller_mutex);
  impl_->run(n, f);
}

int default_thread_count() {
  if (const char* own = std::getenv("QUEST_NUM_THREADS"); own != nullptr && *own != '\0') {
    const auto count = thread_count_from(own, false);
    QUEST_CHECK(count.has_value(), ErrorKind::kUsage,
                "QUEST_NUM_THREADS is '{}', allowed are whole numbers from 1 to {}", own,
                kMaxThreads);
    return *count;
  }
  if (const char* openmp = std::getenv("OMP_NUM_THREADS"); openmp != nullptr) {
    if (const auto count = thread_count_from(openmp, true)) return *count;
  }
  return cpu_features().usable_cores;
}

}  // namespace quest
