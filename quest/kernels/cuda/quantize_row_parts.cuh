// The quantizer of quantize_row.cuh with one row spread over a cluster of blocks (compute
// capability 9.0 and up), for calls of few rows: one multiprocessor takes microseconds for a row of
// ten thousand values. The same bits: parts are whole chunks of the sum of squares.
#pragma once

#include "quest/kernels/cuda/cluster.cuh"
#include "quest/kernels/cuda/quantize_row.cuh"

namespace quest::kernels::cuda {

inline constexpr int64_t kMostRowsInParts = 16;
inline constexpr int64_t kLeastRowInParts = 2048;

// How many blocks a row is spread over; 1 for none.
inline constexpr int kRowParts = 8;
inline int parts_of_row(int64_t m, int64_t most_rows, int64_t k) {
  return m > most_rows || k < kLeastRowInParts || !launches_clusters(device_facts()) ? 1
                                                                                     : kRowParts;
}
inline int part_width(int64_t k, int parts) {
  const int64_t chunks = (k + 127) / 128;
  return static_cast<int>((chunks + parts - 1) / parts * 128);
}
inline int part_threads(int width) { return (width / kLane + 31) / 32 * 32; }
struct PartsShared {
  float chunks[kMaxChunks];  // of the whole row
  Mailbox box;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
// This block's part of row blockIdx.y: the columns from blockIdx.x * width on, width a multiple of
// 128, 8 of them in each thread. Made before anything else.
struct RowPart {
  int64_t row;
  int width;

  __device__ RowPart(PartsShared& shared, int columns) : row(blockIdx.y), width(columns) {
    open(shared.box);
    start_cluster();
  }
  __device__ int column(int thread) const { return blockIdx.x * width + thread * kLane; }
  __device__ int count(int thread, int k) const {
    const int from = column(thread);
    return thread * kLane < width && from < k ? min(kLane, k - from) : 0;
  }
};

// By the threads of the part: rotated, measured, decided; `factor` goes into the unit.
// before_writes() runs when all of the cluster whose values matter have got their v.
template <CodeKind kCode, class F>
__device__ void quantize_part(const RowPart& part, const RowRule& rule, int k, float factor,
                              float (&v)[kLane], PartsShared& shared, const QuantizedRows& out,
                              const F& before_writes) {
  const int thread = threadIdx.x, column = part.column(thread), count = part.count(thread, k);
  if (thread == 0) expect(shared.box, (k + 127) / 128 * static_cast<int>(sizeof(float)));
  if (rule.block > 1) butterfly(v, rule.block, rule.norm);
  const float sum = square_chunk(v);  // in all 16 lanes: each tells one block
  const int first = thread / 16 * 16, block = thread % 16;
  await_cluster();
  if (block < static_cast<int>(gridDim.x) && part.count(first, k) > 0) {
    send(sum, shared.chunks + part.column(first) / 128, shared.box, block);
  }
  receive(shared.box);
  RowScale c = {1.0f, 1.0f, 0.0f};
  if (kCode != CodeKind::kValues) c = scale_of_row<kCode>(rule, shared.chunks, k);
  c.unit *= factor;
  before_writes();
  if (blockIdx.x == 0 && thread == 0 && out.units != nullptr) out.units[part.row] = c.unit;
  if (count > 0) decide8<kCode>(rule, c, v, part.row, column, k, k % kLane == 0, out);
}
#endif

// Source::load8_of fills 8 values and waits for the previous kernel.
template <class Source, CodeKind kCode>
__global__ void __launch_bounds__(kRowThreads)
    quantize_row_parts(Source source, RowRule rule, int k, int width, QuantizedRows out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __shared__ PartsShared shared;
  const RowPart part(shared, width);
  let_next_start();
  const int count = part.count(threadIdx.x, k);
  float v[kLane];
  source.load8_of(part.row, k, part.column(threadIdx.x), count, k % kLane == 0 && count > 0, v);
  quantize_part<kCode>(part, rule, k, 1.0f, v, shared, out, [] {});
#else
  (void)&Source::load8_of;  // nvcc warns of what it thinks is not used
#endif
}

// As launch_quantize_rows, and that where rows are many or short.
template <class Source>
void launch_few_rows(const char* operation, const Source& source, const RowRule& rule, int64_t m,
                     int64_t k, const QuantizedRows& out, cudaStream_t stream) {
  const int parts = parts_of_row(m, kMostRowsInParts, k);
  if (m == 0 || parts == 1) {
    launch_quantize_rows(operation, source, rule, m, k, out, stream, /*overlaps=*/true);
    return;
  }
  const int width = part_width(k, parts);
  const auto run = [&](auto code) {
    const auto kernel = &quantize_row_parts<Source, decltype(code)::value>;
    // At most kRowThreads threads, since K <= kMaxRow.
    launch_dependent_clusters(operation, kernel, dim3(parts, static_cast<unsigned>(m)), parts,
                              dim3(part_threads(width)), 0, stream, source, rule,
                              static_cast<int>(k), width, out);
  };
  with_code(rule.code, run);
}

}  // namespace quest::kernels::cuda
