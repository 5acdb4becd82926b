// The quantizer of many rows of bfloat16 whose lengths are multiples of 128, for uniform grids: the
// bits of quantize_row.cuh with half of its instructions.
//
// A block takes rows in turn, a warp of it the same span of each (row_span.h); the next row is on
// its way into shared memory while this one is computed. 32 values in a thread need one exchange
// through shared memory where 8 need 4 shuffles each, and decide by pairs of 16 bits.
#pragma once

#include <array>
#include <atomic>

#include "quest/kernels/cuda/async_copy.cuh"
#include "quest/kernels/cuda/packed_product.h"
#include "quest/kernels/cuda/quantize_row.cuh"
#include "quest/kernels/cuda/row_span.h"
#include "quest/kernels/cuda/sources.cuh"

namespace quest::kernels::cuda {

inline constexpr int kMostSpans = 16;  // of a row: warps of a block
inline constexpr int64_t kLeastManyRows = 512;
static_assert(kChunk == kLane);

// Sources. start(i, row, k): row of input i. values(): those of chunk `unit` of the span's inputs,
// kChunkUnits apart in shared memory. A source that normalizes first puts its rows there.
struct PlainSpans {
  static constexpr int kInputs = 1;
  static constexpr bool kNormalizes = false;
  static constexpr int64_t kMostColumns = kMostSpans * kSpan;
  const __nv_bfloat16* x;

  __device__ const __nv_bfloat16* start(int, int64_t row, int k) const { return x + row * k; }
  __device__ static void values(const uint4* unit, float (&v)[kLane]) {
    load8(reinterpret_cast<const __nv_bfloat16*>(unit), v);
  }
};

struct SwigluSpans {
  static constexpr int kInputs = 2;
  static constexpr bool kNormalizes = false;
  static constexpr int64_t kMostColumns = kMostSpans * kSpan;
  const __nv_bfloat16* gate_up;

  __device__ const __nv_bfloat16* start(int i, int64_t row, int k) const {
    return gate_up + (2 * row + i) * k;
  }
  __device__ static void values(const uint4* unit, float (&v)[kLane]) {
    float up[kLane];
    load8(reinterpret_cast<const __nv_bfloat16*>(unit), v);
    load8(reinterpret_cast<const __nv_bfloat16*>(unit + kChunkUnits), up);
#pragma unroll
    for (int i = 0; i < kLane; ++i) v[i] = v[i] * sigmoid(v[i]) * up[i];
    round8(v, __nv_bfloat16{});
  }
};

// The sum of squares in the order of NormalizedRows, one round of 8 values in a thread.
struct NormalizedSpans {
  static constexpr int kInputs = 2;
  static constexpr bool kNormalizes = true;
  static constexpr int64_t kMostColumns = kRowThreads * kLane;
  NormalizedRows<__nv_bfloat16> rows;

  __device__ const __nv_bfloat16* start(int i, int64_t row, int k) const {
    const __nv_bfloat16* input = i == 0 ? rows.x : rows.delta;
    return input == nullptr ? nullptr : input + row * k;
  }
  __device__ static void values(const uint4* unit, float (&v)[kLane]) {
    load8(reinterpret_cast<const __nv_bfloat16*>(unit), v);
  }
  // Every lane its own chunks in rounds. `column`: of round 0. scratch: a float for 256 columns.
  __device__ void normalize(int64_t row, int k, int column, uint4* units, float* scratch) const {
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 4;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int at = column + j * 32 * kLane;
      auto* mine = reinterpret_cast<__nv_bfloat16*>(units + j * kChunkRound);
      float squares = 0.0f;
      if (at < k) {
        float v[kLane];
        load8(mine, v);
        if (rows.delta != nullptr) {
          float d[kLane];
          load8(mine + kChunkUnits * kLane, d);
#pragma unroll
          for (int i = 0; i < kLane; ++i) v[i] += d[i];
          round8(v, __nv_bfloat16{});
          store8(mine, v);
          store8(rows.h + row * k + at, v);
        }
#pragma unroll
        for (int i = 0; i < kLane; ++i) squares += v[i] * v[i];
      }
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        squares += __shfl_xor_sync(0xffffffffu, squares, step);
      }
      if (lane == 0) scratch[first + j] = squares;
    }
    __syncthreads();
    // As block_sum, whose warps hold 256 columns each.
    float sum = lane < (k + 32 * kLane - 1) / (32 * kLane) ? scratch[lane] : 0.0f;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    const float inverse = 1.0f / sqrtf(sum / static_cast<float>(k) + rows.eps);
    if (rows.inverse_rms != nullptr && threadIdx.x == 0) rows.inverse_rms[row] = inverse;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int at = column + j * 32 * kLane;
      if (at >= k) continue;
      auto* mine = reinterpret_cast<__nv_bfloat16*>(units + j * kChunkRound);
      float v[kLane], w[kLane];
      load8(mine, v);
      load8(rows.weight + at, w);
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[i] = v[i] * inverse * w[i];
      store8(mine, v);
    }
  }
};

// The same values as these sources of rows.
inline PlainSpans spans_of(const PlainRows<__nv_bfloat16>& rows) { return {rows.x}; }
inline SwigluSpans spans_of(const SwigluRows<__nv_bfloat16>& rows) { return {rows.gate_up}; }
inline NormalizedSpans spans_of(const NormalizedRows<__nv_bfloat16>& rows) { return {rows}; }

// The stages of strides that a thread holds whole: (a, b) -> (a + b, a - b).
template <int kCount>
__device__ void stages(float* v, int stride) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if ((i & stride) == 0) {
      const float a = v[i], b = v[i + stride];
      v[i] = a + b;
      v[i + stride] = a - b;
    }
  }
}

// v by quarters -> transformed, by strides. `floats`: kFloatUnits of the warp.
__device__ inline void transform_span(float (&v)[4 * kLane], float norm, uint4* floats) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int stride = 1; stride < 32; stride *= 2) stages<32>(v, stride);
  auto* to = reinterpret_cast<float4*>(floats + float_by_quarters(lane));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    to[i] = make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
  }
  __syncwarp();
  const auto* from = reinterpret_cast<const float4*>(floats + float_by_strides(lane));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float4 part = from[kQuarterUnits * (i / 2) + i % 2];
    v[4 * i] = part.x, v[4 * i + 1] = part.y, v[4 * i + 2] = part.z, v[4 * i + 3] = part.w;
  }
  // Quarters are 8 values apart here.
  stages<32>(v, 8);
  stages<32>(v, 16);
#pragma unroll
  for (int i = 0; i < 32; ++i) v[i] *= norm;
}

// The first half of the tree of quest/quant/sum_of_squares.h: one block, held by strides by 4
// lanes. The same in all of them.
__device__ inline float squares_of_block(const float (&v)[4 * kLane]) {
  float sums[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    float s[kLane];
#pragma unroll
    for (int i = 0; i < kLane; ++i) s[i] = v[q * kLane + i] * v[q * kLane + i];
    sums[q] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
    sums[q] += __shfl_xor_sync(0xffffffffu, sums[q], 1);
    sums[q] += __shfl_xor_sync(0xffffffffu, sums[q], 2);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Integers n of a uniform grid beside 1.5 * 2^23 + 2^14: the low half of the float's bits is
// 2^14 + n, which is positive and below 2^15 for every row that is finite (|z| is at most sqrt(K)
// times half_steps / alpha / 2, below 6000, or clamped), so that two share a word.
inline constexpr int kPairBias = 1 << 14;
inline constexpr float kPairShift = kIntegerShift + static_cast<float>(kPairBias);
// Whether two are clamped by one instruction.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kClampsPairs = true;
#else
inline constexpr bool kClampsPairs = false;
#endif

// From pairs to codes, which are the low bytes of a pair's halves; nothing is ever carried from one
// half into the other.
template <bool kClampPairs>
struct PairRule {
  uint32_t to_lowest, levels;  // what makes the lowest n 0, and what the highest is then
  uint32_t slope, offset;

  __device__ explicit PairRule(const RowRule& rule) {
    const auto both = [](int n) { return static_cast<uint32_t>(n) * 0x10001u; };
    const int lowest = static_cast<int>(rule.shift - rule.half_levels);
    const int highest = static_cast<int>(rule.shift + rule.half_levels);
    to_lowest = static_cast<uint32_t>(-(kPairBias + lowest)) & 0xffffu;
    to_lowest *= 0x10001u;
    levels = both(highest - lowest);
    slope = static_cast<uint32_t>(rule.code_slope);
    // 256: above 0 without a trace in the low byte.
    offset = both(rule.code_offset + (kClampPairs ? 256 + rule.code_slope * lowest : 0));
  }
  __device__ uint32_t codes(float n0, float n1) const {
    uint32_t pair = __byte_perm(__float_as_uint(n0), __float_as_uint(n1), 0x5410);
    if (kClampPairs) pair = __viaddmin_s16x2_relu(pair, to_lowest, levels);
    return pair * slope + offset;
  }
};

// Codes of 8 values, and with kMask their bits pushed into `failed` from above, 1 where the
// gradient stops: the last value first.
template <bool kMask>
__device__ uint2 decide_chunk(const RowRule& rule, const PairRule<kClampsPairs && !kMask>& pair,
                              const RowScale& c, const float* xh, uint32_t& failed) {
  uint32_t words[4];
  const auto decide = [&](auto clamps) {
#pragma unroll
    for (int p = 3; p >= 0; --p) {
      float n[2];
#pragma unroll
      for (int h = 1; h >= 0; --h) {
        const float x = xh[2 * p + h];
        float z = x * c.inverse_step;
        if constexpr (decltype(clamps)::value) {
          z = fminf(fmaxf(z, -rule.half_levels), rule.half_levels);
        }
        n[h] = z + rule.shift + kPairShift;
        if (kMask) {
          // number * unit with number = slope * n - intercept, which is exact, in one rounding.
          const float value =
              __fmaf_rn(n[h] - kPairShift, rule.slope * c.unit, -(rule.intercept * c.unit));
          const float distance = fabsf(__fmaf_rn(value, -rule.error_of, x));
          failed = __funnelshift_l(__float_as_uint(c.limit - distance), failed, 1);
        }
      }
      words[p] = pair.codes(n[0], n[1]);
    }
  };
  // With a mask the number is wanted as a float too; with two levels z is beyond what a pair holds.
  if (kMask || !kClampsPairs || rule.by_sign) {
    decide(std::true_type{});
  } else {
    decide(std::false_type{});
  }
  return {__byte_perm(words[0], words[1], 0x6420), __byte_perm(words[2], words[3], 0x6420)};
}

// Lane p of 4 has byte q of quarter q, chunk p; it gets those of quarter p, chunk by chunk.
__device__ inline uint32_t turn_mask(uint32_t bytes) {
  const unsigned lane = threadIdx.x;
  uint32_t other = __shfl_xor_sync(0xffffffffu, bytes, 1);
  bytes = __byte_perm(bytes, other, (lane & 1) == 0 ? 0x6240 : 0x3715);
  other = __shfl_xor_sync(0xffffffffu, bytes, 2);
  return __byte_perm(bytes, other, (lane & 2) == 0 ? 0x5410 : 0x3276);
}

// Beside what launches ask for.
struct alignas(16) SpanShared {
  float chunks[kMaxChunks];
  float scratch[4 * kMostSpans];
  RowScale scale;
};

// Units of shared memory of a warp: its inputs, and beside them (or, kInPlace, where they were) the
// floats of a transform. In place the next row is fetched later, but more blocks have room.
template <class Source, bool kHadamard, bool kInPlace>
constexpr int units_of_span() {
  constexpr int kInputs = Source::kInputs * kChunkUnits;
  if (!kHadamard) return kInputs;
  if (!kInPlace) return kInputs + kFloatUnits;
  return kInputs < kFloatUnits ? kFloatUnits : kInputs;
}

template <class Source, bool kHadamard, bool kMask, bool kInPlace>
__global__ void __launch_bounds__(kMostSpans * 32)
    quantize_spans(Source source, RowRule rule, int64_t m, int k, QuantizedRows out) {
  extern __shared__ uint4 span_units[];
  __shared__ SpanShared shared;
  constexpr int kUnits = units_of_span<Source, kHadamard, kInPlace>();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, block = lane / 4, part = lane % 4;
  uint4* units = span_units + warp * kUnits;
  uint4* in_rounds = units + chunk_in_rounds(lane);
  const int round_column = warp * kSpan + lane * kChunk;
  const int column = warp * kSpan + block * kSpanBlock + part * kChunk;  // by strides, quarter 0
  const bool exists = column < k;
  const PairRule<kClampsPairs && !kMask> pair(rule);

  const auto fetch = [&](int64_t row) {
#pragma unroll
    for (int i = 0; i < Source::kInputs; ++i) {
      const __nv_bfloat16* from = source.start(i, row, k);
      if (from == nullptr) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int at = round_column + j * 32 * kChunk;
        if (at < k) copy_async(in_rounds + i * kChunkUnits + j * kChunkRound, from + at);
      }
    }
  };
  fetch(blockIdx.x);
  for (int64_t row = blockIdx.x; row < m; row += gridDim.x) {
    await_all_copies();
    if constexpr (Source::kNormalizes)
      source.normalize(row, k, round_column, in_rounds, shared.scratch);
    __syncwarp();
    float v[4 * kLane];
    const uint4* mine = units + (kHadamard ? chunk_by_quarters(lane) : chunk_by_strides(lane));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float chunk[kLane];
      Source::values(mine + (kHadamard ? j : chunk_stride(j)), chunk);
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[j * kLane + i] = chunk[i];
    }
    __syncwarp();
    const bool more = row + gridDim.x < m;
    if (more && !kInPlace) fetch(row + gridDim.x);
    if constexpr (kHadamard) {
      transform_span(v, rule.norm, units + (kInPlace ? 0 : Source::kInputs * kChunkUnits));
    }
    if constexpr (kInPlace) {
      __syncwarp();
      if (more) fetch(row + gridDim.x);
    }
    const float squares = squares_of_block(v);
    if (exists && part == 0) shared.chunks[column / kSpanBlock] = squares;
    __syncthreads();
    // As in quantize_rows: one warp divides.
    if (warp == 0) {
      const RowScale scale = scale_of_row<CodeKind::kLinear>(rule, shared.chunks, k);
      if (lane == 0) {
        shared.scale = scale;
        if (out.units != nullptr) out.units[row] = scale.unit;
      }
    }
    __syncthreads();
    const RowScale c = shared.scale;
    int8_t* codes = out.codes + row * k + column;
    uint32_t failed = 0;
#pragma unroll
    for (int q = 3; q >= 0; --q) {
      const uint2 bytes = decide_chunk<kMask>(rule, pair, c, v + q * kLane, failed);
      if (exists) *reinterpret_cast<uint2*>(codes + q * kSpanBlock / 4) = bytes;
    }
    if constexpr (kMask) {
      const uint32_t passes = turn_mask(~failed);
      // Quarter `part` of the block: 4 bytes.
      if (exists) {
        uint8_t* mask = out.mask + (row * k + warp * kSpan) / 8 + lane * 4;
        *reinterpret_cast<uint32_t*>(mask) = passes;
      }
    }
  }
}

template <class Source, bool kHadamard, bool kInPlace>
size_t span_bytes(int64_t k) {
  constexpr int64_t kUnits = units_of_span<Source, kHadamard, kInPlace>();
  return static_cast<size_t>((k + kSpan - 1) / kSpan * kUnits) * sizeof(uint4);
}
// f(Hadamard, in place): how rows of k values are transformed. Of sources of two inputs, longer
// ones in place.
inline constexpr int64_t kMostColumnsApart = 4096;
template <class Source, class F>
auto with_transform(const RowRule& rule, int64_t k, const F& f) {
  if (rule.block <= 1) return f(std::false_type{}, std::false_type{});
  if constexpr (Source::kInputs == 2 && Source::kMostColumns > kMostColumnsApart) {
    if (k > kMostColumnsApart) return f(std::true_type{}, std::true_type{});
  }
  return f(std::true_type{}, std::false_type{});
}

// Whether launch_quantize_spans does what is asked for.
template <class Source>
bool takes_spans(const RowRule& rule, int64_t m, int64_t k, const QuantizedRows& out) {
  const size_t bytes = with_transform<Source>(rule, k, [&](auto hadamard, auto in_place) {
    return span_bytes<Source, decltype(hadamard)::value, decltype(in_place)::value>(k);
  });
  return m >= kLeastManyRows && k % kSpanBlock == 0 && k <= Source::kMostColumns &&
         rule.code == CodeKind::kLinear && out.codes != nullptr && out.values == nullptr &&
         bytes + sizeof(SpanShared) <= static_cast<size_t>(device_facts().block_shared);
}

template <class Source, bool kHadamard, bool kMask, bool kInPlace>
void run_quantize_spans(const char* operation, const Source& source, const RowRule& rule, int64_t m,
                        int64_t k, const QuantizedRows& out, cudaStream_t stream) {
  const auto kernel = &quantize_spans<Source, kHadamard, kMask, kInPlace>;
  const auto warps = static_cast<size_t>((k + kSpan - 1) / kSpan);
  const int threads = static_cast<int>(warps) * 32;
  const size_t bytes = span_bytes<Source, kHadamard, kInPlace>(k);
  static std::array<std::atomic<int>, kMostSpans + 1> known{};  // blocks of a multiprocessor
  int blocks = known[warps];
  if (blocks == 0) {
    allow_shared(operation, kernel, sizeof(SpanShared));
    check(operation,
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, bytes));
    known[warps] = blocks;
  }
  const int64_t at_once = int64_t{blocks} * device_facts().processors;
  const auto grid = static_cast<unsigned>(m < at_once ? m : at_once);
  kernel<<<grid, threads, bytes, stream>>>(source, rule, m, static_cast<int>(k), out);
  check_launch(operation);
}

// What takes_spans() takes.
template <class Source>
void launch_quantize_spans(const char* operation, const Source& source, const RowRule& rule,
                           int64_t m, int64_t k, const QuantizedRows& out, cudaStream_t stream) {
  with_transform<Source>(rule, k, [&](auto hadamard, auto in_place) {
    constexpr bool kHadamard = decltype(hadamard)::value, kInPlace = decltype(in_place)::value;
    if (out.mask == nullptr) {
      run_quantize_spans<Source, kHadamard, false, kInPlace>(operation, source, rule, m, k, out,
                                                             stream);
    } else {
      run_quantize_spans<Source, kHadamard, true, kInPlace>(operation, source, rule, m, k, out,
                                                            stream);
    }
  });
}

}  // namespace quest::kernels::cuda
