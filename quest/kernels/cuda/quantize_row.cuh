// The quantizer of one row, held in registers by the threads of one block: the device's twin of
// quantize_row (quest/quant/quantizer.h), bit for bit.
#pragma once

#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/row_rule.h"

namespace quest::kernels::cuda {

inline constexpr int kMaxChunks = static_cast<int>(kMaxRow / 128);

// The fixed tree of quest/quant/sum_of_squares.h, first half: neighbours within chunks of 128 (8 in
// a thread, then 16 lanes; or 4, and 32 lanes) into chunks, kMaxChunks floats of shared memory.
template <int kEach>
__device__ float square_chunk(const float (&v)[kEach]) {
  float s[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) s[i] = v[i] * v[i];
#pragma unroll
  for (int step = 1; step < kEach; step *= 2) {
#pragma unroll
    for (int i = 0; i < kEach; i += 2 * step) s[i] += s[i + step];
  }
  float sum = s[0];
#pragma unroll
  for (int step = 1; step < 128 / kEach; step *= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, step);
  }
  return sum;
}
template <int kRounds>
__device__ void square_chunks(const float (&v)[kRounds][kLane], int k, float* chunks) {
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const float sum = square_chunk(v[r]);
    const unsigned column = (r * blockDim.x + threadIdx.x) * kLane;
    if (threadIdx.x % 16 == 0 && column < static_cast<unsigned>(k)) chunks[column / 128] = sum;
  }
}

// Second half, by one warp: chunk sums p[i] += p[i + h], h halving. In every lane. kMost, a power
// of two: at least as many as there are.
template <int kMost = kMaxChunks>
__device__ float sum_of_chunks(const float* chunks, int k) {
  static_assert(kMost >= 32 && (kMost & (kMost - 1)) == 0);
  const int count = (k + 127) / 128, lane = threadIdx.x & 31;
  float p[kMost / 32];
#pragma unroll
  for (int j = 0; j < kMost / 32; ++j) {
    p[j] = lane + 32 * j < count ? chunks[lane + 32 * j] : 0.0f;
  }
  // From the largest power of two on; adding the zeros of the padding changes nothing.
#pragma unroll
  for (int half = kMost / 64; half >= 1; half /= 2) {
#pragma unroll
    for (int j = 0; j < half; ++j) p[j] += p[j + half];
  }
  float sum = p[0];
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  return sum;
}

// 1 / rms of a row from its chunks' sums, by one warp; in every lane.
template <int kMost = kMaxChunks>
__device__ float inverse_rms(const float* chunks, int k, float eps) {
  const float sum = sum_of_chunks<kMost>(chunks, k);
  return 1.0f / sqrtf(sum / static_cast<float>(k) + eps);
}

struct RowScale {
  float unit, inverse_step, limit;
};

// row_constants() of quest/quant/quantizer.cpp, the same operations in the same order.
template <CodeKind kCode>
__device__ RowScale row_scale(const RowRule& rule, float rms) {
  RowScale c;
  if (kCode == CodeKind::kTable) {
    const float r = rms + rule.epsilon;
    c.unit = r * rule.unit_over_r;
    c.inverse_step = 1.0f / c.unit;
    // One of the three is not zero.
    c.limit = rule.trust_factor * r + rule.clip_factor * r + rule.ste_limit;
    return c;
  }
  if (rule.epsilon_in_rms) rms += rule.epsilon;
  const float scale = rule.epsilon_in_rms ? rule.alpha * rms : rule.alpha * rms + rule.epsilon;
  const float step = 2.0f * scale / rule.half_steps;
  c.unit = rule.whole_steps ? step : step / 2.0f;
  c.inverse_step = rule.by_sign ? 0x1p126f : 1.0f / step;  // kSignStep
  c.limit = rule.trust_factor * rms + rule.clip_factor * scale + rule.ste_limit;
  return c;
}

// By one warp, from the chunks' sums.
template <CodeKind kCode, int kMost = kMaxChunks>
__device__ RowScale scale_of_row(const RowRule& rule, const float* chunks, int k) {
  RowScale c = {1.0f, 1.0f, 0.0f};
  const float sum = sum_of_chunks<kMost>(chunks, k);
  const float rms = sqrtf(sum / static_cast<float>(k));
  if (rule.rounds) c = row_scale<kCode>(rule, rms);
  if (!isfinite(rms)) c.unit = __int_as_float(0x7fffffff);
  return c;
}

// The 2 of 4 pairs that a 4:8 grid keeps (kept_pairs of quest/quant/quantizer.h).
__device__ inline unsigned kept_pairs(const float (&v)[kLane]) {
  float norm[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) norm[j] = v[2 * j] * v[2 * j] + v[2 * j + 1] * v[2 * j + 1];
  unsigned kept = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    int ahead = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (norm[i] > norm[j] || (norm[i] == norm[j] && i < j)) ++ahead;
    }
    if (ahead < 2) kept |= 1u << j;
  }
  return kept;
}

// A value of a linear grid decided. Of `code` the low byte counts.
struct LinearCode {
  float number;
  int code;
};
__device__ inline LinearCode linear_code(const RowRule& rule, const RowScale& c, float x) {
  const float z = x * c.inverse_step;
  const float clamped = fminf(fmaxf(z, -rule.half_levels), rule.half_levels);
  const float n = shift_to_integer(clamped + rule.shift);
  return {__fmaf_rn(n - kIntegerShift, rule.slope, -rule.intercept),  // small integers: exact
          __float_as_int(n) * rule.code_slope + rule.code_offset};
}

// Decides 8 values and writes what is wanted of them.
template <CodeKind kCode>
__device__ void decide8(const RowRule& rule, const RowScale& c, float (&xh)[kLane], int64_t row,
                        int column, int k, bool vector, const QuantizedRows& out) {
  int codes[kLane];
  float values[kLane];
  unsigned bits = 0;
  unsigned kept = 0xf;
  if (kCode == CodeKind::kSparse) kept = kept_pairs(xh);
  const int count = min(kLane, k - column);
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const bool keeps = kCode != CodeKind::kSparse || (kept >> (i / 2) & 1u) != 0;
    if (kCode == CodeKind::kValues || (kCode == CodeKind::kSparse && !rule.rounds)) {
      values[i] = keeps ? xh[i] : 0.0f;
      codes[i] = 0;
      bits |= (keeps ? 1u : 0u) << i;
      continue;
    }
    float number = 0.0f;
    int code = 0;
    if (kCode == CodeKind::kTable) {
      const float z = xh[i] * c.inverse_step;
      int index = 0;
      for (int level = 0; level < rule.levels - 1; ++level) {
        index += rule.midpoints[level] < z ? 1 : 0;
      }
      number = rule.numbers[index];
      code = rule.number_is_code ? static_cast<int>(number) : index;
    } else if (keeps) {
      const LinearCode decided = linear_code(rule, c, xh[i]);
      number = decided.number;
      code = decided.code;
    }
    codes[i] = code;
    values[i] = number * c.unit;
    // error_of is 1 or 0: one rounding, that of the subtraction.
    const float distance = fabsf(__fmaf_rn(values[i], -rule.error_of, xh[i]));
    bits |= (distance <= c.limit ? 1u : 0u) << i;
  }
  const int64_t at = row * k + column;
  if (out.codes != nullptr) store_part(out.codes + at, count, vector, codes);
  if (out.mask != nullptr) {
    out.mask[row * ((k + 7) / 8) + column / 8] =
        static_cast<uint8_t>(bits & (0xffu >> (8 - count)));
  }
  if (out.values != nullptr) {
    if (out.values_are_bfloat16) {
      store_part(static_cast<__nv_bfloat16*>(out.values) + at, count, vector, values);
    } else {
      store_part(static_cast<float*>(out.values) + at, count, vector, values);
    }
  }
}

// Whether rows of the source are what it loads times source.factor(k), which goes into their units.
template <class Source>
constexpr bool has_factor() {
  if constexpr (requires { Source::kHasFactor; }) return Source::kHasFactor;
  return false;
}

// One block, one row: what the source loads, rotated, measured, decided. Source::load fills v with
// the row's values as floats; its threads beyond the row hold zeros.
template <class Source, CodeKind kCode, int kRounds>
__global__ void __launch_bounds__(kRowThreads)
    quantize_rows(Source source, RowRule rule, int k, QuantizedRows out) {
  __shared__ float chunks[kMaxChunks];
  __shared__ float scratch[32];
  __shared__ RowScale shared_scale;
  let_next_start();
  const int64_t row = blockIdx.x;
  const bool vector = k % kLane == 0;
  float v[kRounds][kLane];
  source.load(row, k, vector, v, scratch);
  if (rule.block > 1) {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) butterfly(v[r], rule.block, rule.norm);
  }
  RowScale c = {1.0f, 1.0f, 0.0f};
  if (kCode != CodeKind::kValues) {
    square_chunks(v, k, chunks);
    __syncthreads();
    // One warp works out what the others then read: the divisions are most of a thread's work.
    if (threadIdx.x < 32) {
      c = scale_of_row<kCode>(rule, chunks, k);
      if constexpr (has_factor<Source>()) c.unit *= source.factor(k);
      if (threadIdx.x == 0) shared_scale = c;
    }
    __syncthreads();
    c = shared_scale;
  }
  if (threadIdx.x == 0 && out.units != nullptr) out.units[row] = c.unit;
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int column = (r * blockDim.x + threadIdx.x) * kLane;
    if (column < k) decide8<kCode>(rule, c, v[r], row, column, k, vector, out);
  }
}

// run(std::integral_constant<CodeKind, code>)
template <class F>
void with_code(CodeKind code, F&& run) {
  switch (code) {
    case CodeKind::kLinear:
      return run(std::integral_constant<CodeKind, CodeKind::kLinear>{});
    case CodeKind::kTable:
      return run(std::integral_constant<CodeKind, CodeKind::kTable>{});
    case CodeKind::kSparse:
      return run(std::integral_constant<CodeKind, CodeKind::kSparse>{});
    case CodeKind::kValues:
      return run(std::integral_constant<CodeKind, CodeKind::kValues>{});
  }
}

// m rows of k values. overlaps: may begin before the previous kernel ends (dependent_launch.cuh).
template <class Source>
void launch_quantize_rows(const char* operation, const Source& source, const RowRule& rule,
                          int64_t m, int64_t k, const QuantizedRows& out, cudaStream_t stream,
                          bool overlaps = false) {
  if (m == 0) return;
  const int rounds = row_rounds(k, Source::kRounds), threads = row_threads(k, rounds);
  const auto run = [&](auto code) {
    with_rounds(rounds, [&](auto count) {
      const auto kernel = &quantize_rows<Source, decltype(code)::value, decltype(count)::value>;
      const dim3 grid(static_cast<unsigned>(m));
      if (overlaps) {
        launch_dependent(operation, kernel, grid, dim3(threads), 0, stream, source, rule,
                         static_cast<int>(k), out);
      } else {
        kernel<<<grid, threads, 0, stream>>>(source, rule, static_cast<int>(k), out);
      }
    });
  };
  with_code(rule.code, run);
  check_launch(operation);
}

}  // namespace quest::kernels::cuda
