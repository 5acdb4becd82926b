// Times of kernels in a recorded CUDA graph, where launches overlap as they do in a step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAStream.h>

namespace quest::bench {

inline at::TensorOptions on_gpu(at::ScalarType type) {
  return at::TensorOptions(type).device(at::kCUDA);
}

// Median microseconds of one of f(0), ..., f(count - 1), recorded one after the other.
inline double microseconds(int64_t count, const std::function<void(int64_t)>& f) {
  for (int64_t i = 0; i < std::min<int64_t>(count, 2); ++i) f(i);
  c10::cuda::getCurrentCUDAStream().synchronize();
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  for (int64_t i = 0; i < count; ++i) f(i);
  graph.capture_end();
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
