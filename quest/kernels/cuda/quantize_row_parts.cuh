// The quantizer of quantize_row.cuh with one row spread over a cluster of blocks (compute
// capability 9.0 and up), for calls of few rows: one multiprocessor takes microseconds for a row of
// ten thousand values. The same bits: parts are whole chunks of the sum of squares.
#pragma once

#include <cooperative_groups.h>

#include "quest/kernels/cuda/quantize_row.cuh"

namespace quest::kernels::cuda {

inline constexpr int64_t kMostRowsInParts = 16;
inline constexpr int64_t kLeastRowInParts = 2048;
inline constexpr int kPartsOfRow = 8;

// kPartsOfRow blocks, one row; block b has the columns from b * width on, width a multiple of 128
// and 8 values in each thread. Source::load8_of fills 8 values and waits for the previous kernel.
template <class Source, CodeKind kCode>
__global__ void __launch_bounds__(kRowThreads)
    quantize_row_parts(Source source, RowRule rule, int k, int width, RowsOut out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  namespace cg = cooperative_groups;
  __shared__ float chunks[kMaxChunks];  // of the whole row
  __shared__ RowScale shared_scale;
  const cg::cluster_group cluster = cg::this_cluster();
  cluster.barrier_arrive();  // all blocks of the cluster must run before one writes to another
  let_next_start();
  const int64_t row = blockIdx.x / kPartsOfRow;
  const int part = blockIdx.x % kPartsOfRow;
  const int at = threadIdx.x * kLane, column = part * width + at;
  const bool vector = k % kLane == 0;
  const int count = at < width && column < k ? min(kLane, k - column) : 0;
  float v[1][kLane];
  source.load8_of(row, k, column, count, vector && count > 0, v[0]);
  if (rule.block > 1) butterfly(v[0], rule.block, rule.norm);
  RowScale c = {1.0f, 1.0f, 0.0f};
  cluster.barrier_wait();
  if (kCode != CodeKind::kValues) {
    const float sum = square_chunk(v[0]);
    if (threadIdx.x % 16 == 0 && count > 0) {
#pragma unroll
      for (int block = 0; block < kPartsOfRow; ++block) {
        *cluster.map_shared_rank(chunks + column / 128, block) = sum;
      }
    }
    cluster.sync();
    if (threadIdx.x < 32) {
      c = scale_of_row<kCode>(rule, chunks, k);
      if (threadIdx.x == 0) shared_scale = c;
    }
    __syncthreads();
    c = shared_scale;
  }
  if (part == 0 && threadIdx.x == 0 && out.units != nullptr) out.units[row] = c.unit;
  if (count > 0) decide8<kCode>(rule, c, v[0], row, column, k, vector, out);
#endif
}

// As launch_quantize_rows, and that where rows are many or short.
template <class Source>
void launch_few_rows(const char* operation, const Source& source, const RowRule& rule, int64_t m,
                     int64_t k, const RowsOut& out, cudaStream_t stream) {
  if (m == 0 || m > kMostRowsInParts || k < kLeastRowInParts || !launches_clusters()) {
    launch_quantize_rows(operation, source, rule, m, k, out, stream, /*overlaps=*/true);
    return;
  }
  const int64_t chunks = (k + 127) / 128;
  const auto width = static_cast<int>((chunks + kPartsOfRow - 1) / kPartsOfRow * 128);
  const int threads = (width / kLane + 31) / 32 * 32;  // at most kRowThreads, since K <= kMaxRow
  const auto run = [&](auto code) {
    launch_dependent_clusters(operation, &quantize_row_parts<Source, decltype(code)::value>,
                              dim3(static_cast<unsigned>(m) * kPartsOfRow), kPartsOfRow,
                              dim3(threads), 0, stream, source, rule, static_cast<int>(k), width,
                              out);
  };
  with_code(rule.code, run);
}

}  // namespace quest::kernels::cuda
