// Times of kernels in a recorded CUDA graph, where launches overlap as they do in a step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/randn.h>
#include <c10/cuda/CUDAStream.h>

#include "quest/ops/cuda_graph.h"

namespace quest::bench {

inline at::TensorOptions on_gpu(at::ScalarType type) {
  return at::TensorOptions(type).device(at::kCUDA);
}
// N(0, 1) in bfloat16.
inline at::Tensor normal(const std::vector<int64_t>& shape) {
  return at::randn(shape, on_gpu(at::kFloat)).to(at::kBFloat16);
}

// Median microseconds of one of f(0), ..., f(count - 1), recorded one after the other.
inline double microseconds(int64_t count, const std::function<void(int64_t)>& f) {
  for (int64_t i = 0; i < std::min<int64_t>(count, 2); ++i) f(i);
  c10::cuda::getCurrentCUDAStream().synchronize();
  at::cuda::CUDAGraph graph;
  ops::record_graph(graph, [&] {
    for (int64_t i = 0; i < count; ++i) f(i);
  });
  std::vector<double> times;
  for (int i = 0; i < 12; ++i) {
    at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
    begin.record();
    graph.replay();
    end.record();
    end.synchronize();
    if (i >= 3) times.push_back(1e3 * static_cast<double>(begin.elapsed_time(end)));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] / static_cast<double>(count);
}

}  // namespace quest::bench
