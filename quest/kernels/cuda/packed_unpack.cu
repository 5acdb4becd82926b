// packed_gemm.h's unpacking and sums of numbers: a warp reads a span of 16 rows x 256 columns in
// lane order, lays its values out in shared memory and writes whole rows of it.
#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/packed_fields.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/cuda/packed_rule.h"
#include "quest/kernels/cuda/tensor_core.cuh"
#include "quest/kernels/lane_order.h"

namespace quest::kernels::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kRowBytes = kSpanColumns + 16;  // of a span in shared memory

struct UnpackTask {
  const uint4* lanes = nullptr;
  const uint32_t* kept = nullptr;   // 4:8
  const uint32_t* pairs = nullptr;  // 4:8
  const float* units = nullptr;
  int64_t n = 0, k = 0, spans = 0;
  int w_multiplier = 1, w_offset = 0;
  bool is_table = false;
  float numbers[16] = {};  // of a table
};

// The values u of a span: lane's words to rows of bytes.
template <int kBits>
__device__ void spread_span(const uint4* from, uint8_t* rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t w[4 * kBits];
#pragma unroll
  for (int v = 0; v < kBits; ++v) load_streaming(from + v * 32 + lane, w + 4 * v);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint32_t u[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) u[j] = unpacked_group<kBits>(w + half * 2 * kBits, j, h);
      auto* to = reinterpret_cast<uint4*>(rows + (lane / 4 + 8 * h) * kRowBytes + half * 128 +
                                          32 * (lane % 4));
      to[0] = make_uint4(u[0], u[1], u[2], u[3]);
      to[1] = make_uint4(u[4], u[5], u[6], u[7]);
    }
  }
}

// 8 numbers of a row, from its values.
__device__ void numbers_of(const UnpackTask& p, const float* table, uint2 u, float (&v)[kLane]) {
  const uint32_t words[2] = {u.x, u.y};
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const int value = static_cast<int>(words[i / 4] >> (8 * (i % 4)) & 255);
    v[i] = p.is_table ? table[value & 15] : float_of(p.w_multiplier * value + p.w_offset);
  }
}

// The same of 4 values as 4 bytes: int8 arithmetic on whole words, a top bit keeping borrows apart.
template <int kBits>
__device__ uint32_t number_bytes(const UnpackTask& p, const float* table, uint32_t u) {
  constexpr uint32_t kTop = 0x80808080u, kOne = 0x01010101u;
  if (p.is_table) {
    uint32_t bytes = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int n = static_cast<int>(table[u >> (8 * i) & 15u]);
      bytes |= static_cast<uint32_t>(n & 255) << (8 * i);
    }
    return bytes;
  }
  const uint32_t scaled = p.w_multiplier == 2 ? u << 1 : u;
  if constexpr (kBits == 7) return (scaled ^ kTop) | kOne;  // 2 u - 128 + 1
  return ((scaled | kTop) - static_cast<uint32_t>(-p.w_offset) * kOne) ^ kTop;
}

__device__ void store_bytes(int8_t* to, int count, bool vector, uint2 bytes) {
  if (vector) {
    *reinterpret_cast<uint2*>(to) = bytes;
    return;
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    if (i < count) to[i] = static_cast<int8_t>((i < 4 ? bytes.x : bytes.y) >> (8 * (i % 4)));
  }
}

template <class D>
__device__ void store_scaled(D* to, int count, bool vector, const float (&v)[kLane], float unit) {
  float scaled[kLane];
#pragma unroll
  for (int i = 0; i < kLane; ++i) scaled[i] = unit * v[i];
  store_part(to, count, vector, scaled);
}

template <int kBits, class D>
__global__ void __launch_bounds__(kThreads) unpack_spans(const UnpackTask p, D* out) {
  let_next_start();
  __shared__ uint4 shared[kWarps * 16 * kRowBytes / 16];
  __shared__ float table[16];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  uint8_t* rows = reinterpret_cast<uint8_t*>(shared) + warp * 16 * kRowBytes;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < 16; ++i) table[i] = p.numbers[i];
  }
  __syncthreads();
  const int64_t unit = int64_t{blockIdx.x} * kWarps + warp;
  const int64_t tile = unit / p.spans, span = unit % p.spans;
  const bool exists = tile * 16 < p.n;
  if (exists) spread_span<kBits>(p.lanes + unit * kBits * 32, rows);
  wait_for_previous();
  if (!exists) return;
  __syncwarp();
  const int64_t column = span * kSpanColumns + lane * kLane;
  if (column >= p.k) return;
  const int count = static_cast<int>(min(int64_t{kLane}, p.k - column));
  for (int r = 0; r < 16 && tile * 16 + r < p.n; ++r) {
    const int64_t row = tile * 16 + r;
    const uint2 u = *reinterpret_cast<const uint2*>(rows + r * kRowBytes + lane * kLane);
    D* to = out + row * p.k + column;
    if constexpr (std::is_same_v<D, int8_t>) {
      store_bytes(
          to, count, p.k % kLane == 0,
          make_uint2(number_bytes<kBits>(p, table, u.x), number_bytes<kBits>(p, table, u.y)));
    } else {
      float v[kLane];
      numbers_of(p, table, u, v);
      store_scaled(to, count, p.k % kLane == 0, v, p.units[row]);
    }
  }
}

// 4:8: a thread has a group of 8 columns of a row, of which 4 are kept.
template <class D>
__global__ void __launch_bounds__(kThreads) unpack_groups(const UnpackTask p, D* out) {
  let_next_start();
  wait_for_previous();
  const int64_t groups = p.k / 8;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= p.n * groups) return;
  const int64_t row = index / groups, group = index % groups;
  // Kept values 4 group .. 4 group + 3 are one group of 4 columns: a nibble of each byte of a word.
  const int kept_line = static_cast<int>(group % 8) / 2, kept_field = static_cast<int>(group % 2);
  const uint32_t kept = p.kept[lane_word(4, p.k / 2, row, group / 8, kept_line)] >> 4 * kept_field;
  const int in_block = static_cast<int>(group % kTileBlock);
  const uint32_t word = p.pairs[lane_word(4, groups, row, group / kTileBlock, in_block / 8)];
  const uint32_t pair = word >> (8 * (in_block % 4) + 4 * (in_block % 8 / 4)) & 15u;
  float v[kLane];
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const uint32_t place = i / 2 == static_cast<int>(pair & 3u)   ? i % 2
                           : i / 2 == static_cast<int>(pair >> 2) ? 2 + i % 2
                                                                  : 4;
    const int u = static_cast<int>(kept >> (8 * (place & 3u)) & 15u);
    v[i] = place < 4 ? float_of(p.w_multiplier * u + p.w_offset) : 0.0f;
  }
  D* to = out + row * p.k + group * 8;
  if constexpr (std::is_same_v<D, int8_t>) {
    int n[kLane];
#pragma unroll
    for (int i = 0; i < kLane; ++i) n[i] = static_cast<int>(v[i]);
    store8(to, n);
  } else {
    store_scaled(to, kLane, true, v, p.units[row]);
  }
}

// sum_k number of the 16 rows of a tile: sums of values, then the format's.
template <int kBits>
__global__ void __launch_bounds__(kThreads) sum_rows(const UnpackTask p, int32_t* out) {
  wait_for_previous();
  __shared__ int32_t sums[16];
  if (threadIdx.x < 16) sums[threadIdx.x] = 0;
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int sum[2] = {0, 0};
  for (int64_t span = warp; span < p.spans; span += kWarps) {
    const uint4* from = p.lanes + (int64_t{blockIdx.x} * p.spans + span) * kBits * 32 + lane;
    uint32_t w[4 * kBits];
#pragma unroll
    for (int v = 0; v < kBits; ++v) load_streaming(from + v * 32, w + 4 * v);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int half = i / 16, h = i / 8 % 2, j = i % 8;
      const uint32_t u = unpacked_group<kBits>(w + half * 2 * kBits, j, h);
      if (p.is_table) {
        // The padding's value is 0, but its number is not.
        const int64_t column = span * kSpanColumns + half * 128 + 32 * (lane % 4) + 4 * j;
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          if (column + b < p.k) sum[h] += static_cast<int>(p.numbers[u >> (8 * b) & 15u]);
        }
      } else {
        sum[h] += static_cast<int>(__dp4a(u, 0x01010101u, 0u));
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
    if (lane % 4 == 0) atomicAdd(sums + lane / 4 + 8 * h, sum[h]);
  }
  __syncthreads();
  const int64_t row = int64_t{blockIdx.x} * 16 + threadIdx.x;
  if (threadIdx.x >= 16 || row >= p.n) return;
  const int total = sums[threadIdx.x];
  out[row] = p.is_table ? total : p.w_multiplier * total + p.w_offset * static_cast<int>(p.k);
}

UnpackTask unpack_task(const DeviceWeight& weight, const PackedRule& rule) {
  UnpackTask task;
  task.lanes = static_cast<const uint4*>(weight.lanes);
  task.kept = static_cast<const uint32_t*>(weight.lanes);
  task.pairs = static_cast<const uint32_t*>(weight.pairs);
  task.units = weight.units;
  task.n = weight.n;
  task.k = weight.k;
  task.spans = lane_spans(weight.k);
  task.w_multiplier = rule.w_multiplier;
  task.w_offset = rule.w_offset;
  task.is_table = rule.kind == kPackedFp4 || rule.kind == kPackedGaussian;
  for (int i = 0; i < 16; ++i) {
    task.numbers[i] =
        rule.kind == kPackedFp4 ? static_cast<float>(rule.numbers[i]) : rule.levels[i];
  }
  return task;
}

// run(std::integral_constant<int, bits>)
template <class F>
void with_bits(int bits, F&& run) {
  switch (bits) {
    case 1:
      return run(std::integral_constant<int, 1>{});
    case 2:
      return run(std::integral_constant<int, 2>{});
    case 3:
      return run(std::integral_constant<int, 3>{});
    case 4:
      return run(std::integral_constant<int, 4>{});
    case 5:
      return run(std::integral_constant<int, 5>{});
    case 6:
      return run(std::integral_constant<int, 6>{});
    case 7:
      return run(std::integral_constant<int, 7>{});
    default:
      return run(std::integral_constant<int, 8>{});
  }
}

template <class D>
void unpack(const char* operation, const DeviceWeight& weight, D* out, Stream stream) {
  if (weight.n == 0 || weight.k == 0) return;
  const PackedRule rule = weight_rule(weight.spec);
  const UnpackTask task = unpack_task(weight, rule);
  if (rule.kind == kPackedSparse) {
    launch_dependent(operation, unpack_groups<D>, blocks_for(weight.n * (weight.k / 8), kThreads),
                     dim3(kThreads), 0, stream, task, out);
    return;
  }
  const int64_t units = (weight.n + 15) / 16 * task.spans;
  with_bits(rule.bits, [&](auto bits) {
    launch_dependent(operation, unpack_spans<decltype(bits)::value, D>, blocks_for(units, kWarps),
                     dim3(kThreads), 0, stream, task, out);
  });
}

}  // namespace

void number_sums(const DeviceWeight& weight, int32_t* sums, Stream stream) {
  check_has_sums(weight.spec);
  if (weight.n == 0) return;
  const PackedRule rule = weight_rule(weight.spec);
  const UnpackTask task = unpack_task(weight, rule);
  with_bits(rule.bits, [&](auto bits) {
    launch_dependent("number_sums", sum_rows<decltype(bits)::value>, blocks_for(weight.n, 16),
                     dim3(kThreads), 0, stream, task, sums);
  });
}

void unpack_numbers(const DeviceWeight& weight, int8_t* numbers, Stream stream) {
  check_numbers_fit(weight.spec);
  unpack("unpack_numbers", weight, numbers, stream);
}

template <class T>
void unpack_values(const DeviceWeight& weight, T* values, Stream stream) {
  unpack("unpack_values", weight, dev(values), stream);
}

template void unpack_values<float>(const DeviceWeight&, float*, Stream);
template void unpack_values<bfloat16>(const DeviceWeight&, bfloat16*, Stream);

}  // namespace quest::kernels::cuda
