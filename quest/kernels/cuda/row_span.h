// How a warp holds 1024 consecutive values of a row while it transforms them (quantize_spans.cuh),
// and where they lie in shared memory in between. Without CUDA's types, so that a test on a CPU can
// follow every value.
//
// A span is 8 blocks of 128 values, a block 4 quarters of 4 chunks of 8 values. Lane 4 b + p holds
// of block b either
//
//   by quarters: quarter p, 32 consecutive values; butterflies of strides 1 to 16 are its own, or
//   by strides: chunk p of each quarter; strides 32 and 64 are its own.
//
// It reads and writes device memory by rounds (chunk 32 j + lane in round j) or by strides: both
// are whole sectors of 32 bytes.
//
// Shared memory is counted in units of 16 bytes: a chunk of bfloat16 is one, of floats two. Gaps
// between them let 8 lanes, whose units travel together, always meet 8 different groups of banks.
#pragma once

#ifdef __CUDACC__
#define QUEST_SPAN __host__ __device__ constexpr
#else
#define QUEST_SPAN constexpr
#endif

namespace quest::kernels::cuda {

inline constexpr int kSpan = 1024, kSpanBlock = 128, kChunk = 8;

// Chunks of bfloat16. In round j: kChunkRound * j beyond that of round 0. By quarters, chunk j of
// the quarter: j beyond the first. By strides, that of quarter q: chunk_stride(q) beyond the first.
inline constexpr int kChunkUnits = 144, kChunkRound = 36;
QUEST_SPAN int chunk_unit(int chunk) { return chunk + chunk / 8; }
QUEST_SPAN int chunk_in_rounds(int lane) { return chunk_unit(lane); }
QUEST_SPAN int chunk_by_quarters(int lane) { return chunk_unit(4 * lane); }
QUEST_SPAN int chunk_by_strides(int lane) { return chunk_unit(lane / 4 * 16 + lane % 4); }
QUEST_SPAN int chunk_stride(int quarter) { return 4 * quarter + quarter / 2; }

// Chunks of floats, half h of chunk j of quarter q of block b. By quarters: 2 j + h beyond the
// first; by strides: kQuarterUnits * q + h.
inline constexpr int kFloatUnits = 328, kQuarterUnits = 10, kBlockUnits = 41;
QUEST_SPAN int float_unit(int block, int quarter, int chunk, int half) {
  return kBlockUnits * block + kQuarterUnits * quarter + 2 * chunk + half;
}
QUEST_SPAN int float_by_quarters(int lane) { return float_unit(lane / 4, lane % 4, 0, 0); }
QUEST_SPAN int float_by_strides(int lane) { return float_unit(lane / 4, 0, lane % 4, 0); }

}  // namespace quest::kernels::cuda
