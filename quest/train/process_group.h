// The ranks that train one model together: who am I, how many are we, sums over all.
//
//   group.all_reduce_sum(gradient);          // in place, the same result on every rank
//   if (group.rank() == 0) write_metrics();  // only rank 0 writes files
//
// Every rank calls the same functions in the same order. Thread rules: one thread at a time.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace quest::train {

class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;

  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  virtual void all_reduce_sum(at::Tensor& tensor) = 0;
  virtual double all_reduce_sum(double value) = 0;
  virtual int64_t all_reduce_max(int64_t value) = 0;
  virtual void barrier() = 0;
};

// A world of one.
class SingleProcess : public ProcessGroup {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void all_reduce_sum(at::Tensor&) override {}
  double all_reduce_sum(double value) override { return value; }
  int64_t all_reduce_max(int64_t value) override { return value; }
  void barrier() override {}
};

}  // namespace quest::train
