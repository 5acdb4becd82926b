// A fixed set of worker threads for data preparation and the torch-free engine.
//
//   ThreadPool pool;
//   pool.parallel_for(rows, [&](int64_t row) { out[row] = work(row); });
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace quest {

// parallel_for(n, f) calls f(i) once for each i in [0, n), from the caller's thread and the
// workers, and returns when all are done; the first exception is rethrown. Which thread runs which
// i is not fixed: results must not depend on it. Not reentrant: do not call parallel_for from
// inside f.
class ThreadPool {
 public:
  // 0: default_thread_count(). Negative or above 1024: kUsage. Threads that cannot be made:
  // kEnvironment.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  void parallel_for(int64_t n, const std::function<void(int64_t)>& f);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// QUEST_NUM_THREADS or OMP_NUM_THREADS if set, else the cores this process may use. A
// QUEST_NUM_THREADS that is no number from 1 to 1024 throws kUsage.
int default_thread_count();

}  // namespace quest
