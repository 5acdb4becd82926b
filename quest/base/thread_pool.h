// A fixed set of worker threads for data preparation and the torch-free engine.
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
  explicit ThreadPool(int threads = 0);  // 0: default_thread_count()
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  void parallel_for(int64_t n, const std::function<void(int64_t)>& f);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// QUEST_NUM_THREADS or OMP_NUM_THREADS if set, else the cores this process may use.
int default_thread_count();

}  // namespace quest
