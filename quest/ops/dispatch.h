// Shared by the operations: element types, raw pointers, rows dealt out to threads.
//
// Kernels take float and bfloat16. double runs through the scalar definition (quantizers) or
// through plain differentiable LibTorch operations (everything else): it exists to check the other
// two.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string_view>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "quest/base/bfloat16.h"
#include "quest/base/error.h"

namespace quest::ops {

template <class T>
T* data(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
T* pointer_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? data<T>(tensor) : nullptr;
}

// Calls f with a value of the kernels' element type of `type`: float or bfloat16.
template <class F>
decltype(auto) with_kernel_type(at::ScalarType type, std::string_view where, F&& f) {
  if (type == at::kFloat) {
    return f(float{});
  }
  QUEST_CHECK(type == at::kBFloat16, ErrorKind::kUsage,
              "[{}] element type is {}, supported are float and bfloat16", where,
              at::toString(type));
  return f(bfloat16{});
}

// f(begin, end) on row ranges from all threads. Rows must be independent of each other: which
// thread runs which rows changes nothing. work_per_row: about how many elements a row touches.
template <class F>
void parallel_rows(int64_t rows, int64_t work_per_row, F&& f) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work_per_row));
  at::parallel_for(0, rows, grain, std::forward<F>(f));
}

// f(begin, end) on single tasks from all threads: a thread takes the next when it has done one, so
// that one on a slow core, whose other half is busy, does not make all others wait. Tasks must be
// independent of each other and long enough for that (a tenth of a millisecond).
template <class F>
void parallel_tasks(int64_t tasks, F&& f) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(tasks, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t task; (task = next.fetch_add(1)) < tasks;) f(task, task + 1);
  });
}

// Contiguous 2-D view (M, last dimension).
inline at::Tensor as_matrix(const at::Tensor& x) { return x.contiguous().view({-1, x.size(-1)}); }
// The same of a tensor that may be undefined, which autograd functions take as an absent one.
inline std::optional<at::Tensor> optional_matrix(const at::Tensor& x) {
  return x.defined() ? std::optional<at::Tensor>(as_matrix(x)) : std::nullopt;
}

}  // namespace quest::ops
