// Help for tests of tensor operations: random tensors, bounds, finite differences. Tests only;
// header only.
//
//   const at::Tensor x = testing::normal({3, 4}, /*seed=*/1);             // double
//   testing::expect_within(op(x.to(at::kFloat)), reference(x), bound, "op");
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "quest/base/philox.h"
#include "quest/base/testing.h"

namespace quest::testing {

// N(0, deviation), rounded to `type`; the same for any number of threads.
inline at::Tensor normal(const std::vector<int64_t>& shape, uint64_t seed,
                         at::ScalarType type = at::kDouble, double deviation = 1.0) {
  const Philox random(seed);
  at::Tensor values = at::empty(shape, at::kDouble);
  double* out = values.data_ptr<double>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    out[i] = deviation * random.normal(static_cast<uint64_t>(i));
  }
  return values.to(type);
}

// A leaf that requires a gradient, with memory of its own.
inline at::Tensor leaf(const at::Tensor& values, at::ScalarType type) {
  return values.detach().to(type).clone().set_requires_grad(true);
}

inline at::Tensor as_double(const at::Tensor& x) { return x.detach().to(at::kDouble); }

// One rounding to `type` changes a value by at most this fraction of it.
inline double rounding_error(at::ScalarType type) {
  return type == at::kDouble ? 0x1p-53 : type == at::kFloat ? 0x1p-24 : 0x1p-8;
}

// |actual - expected| <= bound for every value; NaN fails.
inline void expect_within(const at::Tensor& actual, const at::Tensor& expected,
                          const at::Tensor& bound, const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const at::Tensor excess = (as_double(actual) - as_double(expected)).abs() - as_double(bound);
  const at::Tensor bad = excess.le(0).logical_not();
  EXPECT_EQ(bad.sum().item<int64_t>(), 0)
      << what << ": of " << actual.numel() << " values, largest excess "
      << excess.max().item<double>() << ", largest bound " << as_double(bound).max().item<double>();
}

inline void expect_within(const at::Tensor& actual, const at::Tensor& expected, double bound,
                          const std::string& what) {
  expect_within(actual, expected, as_double(expected) * 0 + bound, what);
}

// ||actual - expected|| / ||expected||
inline double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor e = as_double(expected);
  return ((as_double(actual) - e).norm() / e.norm()).item<double>();
}

// Gradient of a scalar function in double by central differences; x is restored.
inline at::Tensor numeric_gradient(const std::function<double()>& f, const at::Tensor& x,
                                   double h = 1e-5) {
  at::Tensor gradient = at::empty(x.sizes(), at::kDouble);
  double *values = x.data_ptr<double>(), *out = gradient.data_ptr<double>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double kept = values[i];
    values[i] = kept + h;
    const double up = f();
    values[i] = kept - h;
    out[i] = (up - f()) / (2 * h);
    values[i] = kept;
  }
  return gradient;
}

// Sets the number of threads of at::parallel_for until the end of the scope.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(at::get_num_threads()) {
    at::set_num_threads(threads);
  }
  ~ThreadCount() { at::set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

}  // namespace quest::testing
