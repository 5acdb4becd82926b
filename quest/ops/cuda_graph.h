// Recording of work on a GPU as a CUDA graph. Needs CUDA's headers: for sources in cuda/ folders.
//
//   at::cuda::CUDAGraph graph;
//   record_graph(graph, [&] { step(); });   // on a stream that is not the default one
//   graph.replay();
#pragma once

#include <exception>
#include <utility>

#include <ATen/cuda/CUDAGraph.h>

namespace quest::ops {

// Runs `work` in capture mode, memory from `pool`. Where it throws, the stream leaves capture mode,
// since all that follows would fail, and the error goes on.
template <class F>
void record_graph(at::cuda::CUDAGraph& graph, F&& work, at::cuda::MempoolId_t pool = {0, 0},
                  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal) {
  graph.capture_begin(pool, mode);
  try {
    std::forward<F>(work)();
  } catch (...) {
    try {
      graph.capture_end();
    } catch (const std::exception&) {  // the first error is the one to tell
    }
    throw;
  }
  graph.capture_end();
}

}  // namespace quest::ops
