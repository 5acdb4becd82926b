// table_gemm.h: splitting rows, the three products, embedding rows.
#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/packed_product.h"
#include "quest/kernels/cuda/table_gemm.h"
#include "quest/kernels/cuda/tensor_core.cuh"
#include "quest/kernels/lane_order.h"

namespace quest::kernels::cuda {
namespace {

constexpr int kGroup = static_cast<int>(kTileBlock);
constexpr int kMaxHalves = 64;  // rows of halves in one product

int64_t round_up16(int64_t a) { return (a + 15) / 16 * 16; }

// Rows of x in the workspace: q = 256 high + low.
struct SplitRows {
  int8_t* codes;   // (2 M, C): high and low in turn
  float* units;    // (M)
  int32_t* terms;  // (M, groups): -8 sum of q
  int64_t columns, groups;
};
SplitRows split_rows(void* workspace, int64_t m, int64_t columns) {
  auto* bytes = static_cast<uint8_t*>(workspace);
  SplitRows rows;
  rows.columns = columns;
  rows.groups = count_of(columns, kGroup);
  rows.codes = reinterpret_cast<int8_t*>(bytes);
  bytes += round_up16(2 * m * columns);
  rows.units = reinterpret_cast<float*>(bytes);
  bytes += round_up16(4 * m);
  rows.terms = reinterpret_cast<int32_t*>(bytes);
  return rows;
}

// --- x to halves: split_row of kernels/scalar/table_gemm.cpp, a block for each row

constexpr int kSplitThreads = 512;

__global__ void __launch_bounds__(kSplitThreads)
    split_into_halves(const float* x, int64_t ldx, SplitRows out) {
  let_next_start();
  wait_for_previous();
  __shared__ float largest_of[kSplitThreads / 32];
  const int columns = static_cast<int>(out.columns), tid = static_cast<int>(threadIdx.x);
  const int lane = tid % 32, warp = tid / 32;
  const float* row = x + blockIdx.x * ldx;
  float largest = 0;
  int infinite = 0;
  for (int c = tid; c < columns; c += kSplitThreads) {
    const float size = fabsf(row[c]);
    infinite |= !(size <= 3.402823466e+38f);
    largest = fmaxf(largest, size);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
  }
  if (lane == 0) largest_of[warp] = largest;
  infinite = __syncthreads_or(infinite);
#pragma unroll
  for (int w = 0; w < kSplitThreads / 32; ++w) largest = fmaxf(largest, largest_of[w]);
  const bool finite = infinite == 0;
  if (tid == 0) {
    out.units[blockIdx.x] = finite ? largest / 32639.0f : __int_as_float(0x7fc00000);
  }
  float inverse = finite && largest > 0 ? 32639.0f / largest : 0.0f;
  if (inverse > 3.402823466e+38f) inverse = 0.0f;  // a row of denormal numbers
  int8_t* high = out.codes + 2 * blockIdx.x * out.columns;
  int8_t* low = high + out.columns;
  for (int first = warp * kGroup; first < columns; first += kSplitThreads / 32 * kGroup) {
    const int c = first + lane;
    int q = 0;
    if (c < columns && finite) {
      q = static_cast<int>((row[c] * inverse + kIntegerShift) - kIntegerShift);
    }
    const int rest = ((q + 128) & 255) - 128;
    if (c < columns) {
      low[c] = static_cast<int8_t>(rest);
      high[c] = static_cast<int8_t>((q - rest) / 256);
    }
    const int sum = __reduce_add_sync(0xffffffffu, q);
    if (lane == 0) out.terms[blockIdx.x * out.groups + first / kGroup] = -8 * sum;
  }
}

// --- kInt4: a warp has a row tile, and goes through its groups in their order

constexpr int kGroupWarps = 8;

struct GroupTask {
  const uint4* lanes = nullptr;
  const uint4* units = nullptr;  // lane units: 8 of a row
  SplitRows x;                   // of these rows
  float* out = nullptr;
  int64_t ldo = 0;
  int m = 0, rows = 0;  // of x; of the table
  int spans = 0, slab_spans = 0;
  int row_bytes = 0, terms_stride = 0, terms_offset = 0;  // shared memory
};

struct GroupSpan {
  uint32_t w[16];        // 4 bits in order kGroups: w[2 group + h]
  uint32_t units[2][4];  // of rows g and g + 8, two groups in each word

  __device__ void load(const GroupTask& p, int64_t tile, int span) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t at = tile * p.spans + span;
#pragma unroll
    for (int v = 0; v < 4; ++v) load_streaming(p.lanes + (at * 4 + v) * 32 + lane, w + 4 * v);
#pragma unroll
    for (int h = 0; h < 2; ++h) load_streaming(p.units + at * 16 + lane / 4 + 8 * h, units[h]);
  }
  __device__ float unit(int h, int group) const {
    const uint32_t word = units[h][group / 2];
    return __uint_as_float(group % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
};

template <int kTilesM>
struct GroupSums {
  float sums[kTilesM][2];

  // The 8 groups of a span, or as many as there are. codes and terms: of the span in row 0.
  __device__ void add(const GroupSpan& span, const GroupTask& p, int groups, const uint8_t* codes,
                      const int32_t* terms) {
    const int lane = static_cast<int>(threadIdx.x) % 32, t = lane % 4;
    constexpr uint32_t kMask = 0x0f0f0f0fu;
#pragma unroll
    for (int group = 0; group < kSpanBlocks; ++group) {
      if (group >= groups) break;
      const uint32_t lower = span.w[2 * group], upper = span.w[2 * group + 1];
      const uint32_t a0 = lower & kMask, a1 = upper & kMask;
      const uint32_t a2 = lower >> 4 & kMask, a3 = upper >> 4 & kMask;
      const float unit0 = span.unit(0, group), unit1 = span.unit(1, group);
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        // Columns of the product are rows of halves: 2 t and 2 t + 1 of one row of x.
        const int row = min(4 * i + t, p.m - 1), half = min(8 * i + lane / 4, 2 * p.m - 1);
        const uint2 b =
            *reinterpret_cast<const uint2*>(codes + half * p.row_bytes + group * kGroup + 8 * t);
        int d[4] = {0, 0, 0, 0};
        mma_u8(d, a0, a1, a2, a3, b.x, b.y);
        const int term = terms[row * p.terms_stride + group];
        sums[i][0] = __fmaf_rn(__int2float_rn(256 * d[0] + d[1] + term), unit0, sums[i][0]);
        sums[i][1] = __fmaf_rn(__int2float_rn(256 * d[2] + d[3] + term), unit1, sums[i][1]);
      }
    }
  }
};

__device__ void stage_groups(const GroupTask& p, int s0, int spans, uint8_t* codes,
                             int32_t* terms) {
  const int tid = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int pieces = spans * 16, k = static_cast<int>(p.x.columns);
  for (int i = tid; i < 2 * p.m * pieces; i += threads) {
    const int row = i / pieces, piece = i % pieces, column = s0 * kSpanColumns + 16 * piece;
    const int8_t* from = p.x.codes + row * p.x.columns;
    reinterpret_cast<uint4*>(codes + row * p.row_bytes)[piece] =
        k % 16 == 0 ? load_codes<true>(from, column, k, 0) : load_codes<false>(from, column, k, 0);
  }
  const int groups = spans * kSpanBlocks, all = static_cast<int>(p.x.groups);
  for (int i = tid; i < p.m * groups; i += threads) {
    const int row = i / groups, group = i % groups, from = s0 * kSpanBlocks + group;
    terms[row * p.terms_stride + group] = from < all ? p.x.terms[row * p.x.groups + from] : 0;
  }
}

template <int kTilesM>
__global__ void __launch_bounds__(32 * kGroupWarps) group_product(const GroupTask p) {
  constexpr int kDepth = 2;
  let_next_start();
  extern __shared__ uint4 shared[];
  auto* codes = reinterpret_cast<uint8_t*>(shared);
  auto* terms = reinterpret_cast<int32_t*>(codes + p.terms_offset);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t tile = int64_t{blockIdx.x} * kGroupWarps + threadIdx.x / 32;
  const bool exists = tile * 16 < p.rows;
  GroupSums<kTilesM> sums = {};
  for (int s0 = 0; s0 < p.spans; s0 += p.slab_spans) {
    const int spans = min(p.slab_spans, p.spans - s0);
    GroupSpan ring[kDepth];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (exists && d < spans) ring[d].load(p, tile, s0 + d);
    }
    if (s0 == 0) {
      wait_for_previous();
    } else {
      __syncthreads();
    }
    stage_groups(p, s0, spans, codes, terms);
    __syncthreads();
    for (int base = 0; exists && base < spans; base += kDepth) {
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const int span = base + d;
        if (span >= spans) break;
        const int groups = static_cast<int>(p.x.groups) - (s0 + span) * kSpanBlocks;
        sums.add(ring[d], p, groups, codes + span * kSpanColumns, terms + span * kSpanBlocks);
        if (span + kDepth < spans) ring[d].load(p, tile, s0 + span + kDepth);
      }
    }
  }
  if (!exists) return;
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
    const int row = 4 * i + lane % 4;
    if (row >= p.m) continue;
    const float unit = p.x.units[row];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t v = tile * 16 + lane / 4 + 8 * h;
      if (v < p.rows) p.out[row * p.ldo + v] = sums.sums[i][h] * unit;
    }
  }
}

template <int kTilesM>
void launch_groups(const GroupTask& task, int shared_bytes, Stream stream) {
  static const bool allowed = [] {
    allow_shared("table_gemm", group_product<kTilesM>);
    return true;
  }();
  static_cast<void>(allowed);
  const int tiles = count_of(task.rows, 16);
  launch_dependent("table_gemm", group_product<kTilesM>,
                   dim3(static_cast<unsigned>(count_of(tiles, kGroupWarps))),
                   dim3(32 * kGroupWarps), static_cast<size_t>(shared_bytes), stream, task);
}

void group_products(const DeviceTable& table, const SplitRows& x, int m, float* out, int64_t ldo,
                    Stream stream) {
  GroupTask task;
  task.lanes = static_cast<const uint4*>(table.weight);
  task.units = reinterpret_cast<const uint4*>(table.group_units);
  task.x = x;
  task.out = out;
  task.ldo = ldo;
  task.m = m;
  task.rows = static_cast<int>(table.rows);
  task.spans = count_of(table.columns, kSpanColumns);
  int shared_bytes = 0;
  const int limit = shared_of_two_blocks(device_facts());
  for (int slabs = 1;; ++slabs) {
    task.slab_spans = count_of(task.spans, slabs);
    task.row_bytes = task.slab_spans * kSpanColumns + 32;  // rows meet different banks
    task.terms_stride = (task.slab_spans + 1) * kSpanBlocks;
    task.terms_offset = 2 * m * task.row_bytes;
    shared_bytes = task.terms_offset + 4 * m * task.terms_stride;
    if (shared_bytes <= limit || task.slab_spans == 1) break;
  }
  if (m <= 4) return launch_groups<1>(task, shared_bytes, stream);
  if (m <= 8) return launch_groups<2>(task, shared_bytes, stream);
  if (m <= 16) return launch_groups<4>(task, shared_bytes, stream);
  launch_groups<8>(task, shared_bytes, stream);
}

// --- kBf16: lanes 2 r and 2 r + 1 of a warp have 8 partial sums each of row r of a tile

constexpr int kBf16Warps = 8, kBf16Slab = 1024, kBf16Ring = 8, kBf16Rows = 8;

struct Bf16Task {
  const __nv_bfloat16* weight = nullptr;
  const float* x = nullptr;
  int64_t ldx = 0;
  float* out = nullptr;
  int64_t ldo = 0;
  int m = 0, rows = 0, columns = 0;
};

// 8 weights from `column` on; 0 past the end.
__device__ void load_weights(const __nv_bfloat16* row, int column, int columns, bool aligned,
                             uint32_t (&w)[4]) {
  if (aligned && column + kLane <= columns) {
    load_streaming(reinterpret_cast<const uint4*>(row + column), w);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto at = [&](int c) {
      return c < columns ? uint32_t{__bfloat16_as_ushort(row[c])} : 0u;
    };
    w[i] = at(column + 2 * i) | at(column + 2 * i + 1) << 16;
  }
}

template <int kM>
__device__ void add_weights(const uint32_t (&w)[4], const float* x, int count,
                            float (&sums)[kM][kLane]) {
  float weights[kLane];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    weights[2 * i] = __uint_as_float(w[i] << 16);
    weights[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
  }
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    float v[kLane];
    load8(x + m * kBf16Slab, v);
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      if (i < count) sums[m][i] = __fmaf_rn(v[i], weights[i], sums[m][i]);
    }
  }
}

template <int kM>
__global__ void __launch_bounds__(32 * kBf16Warps) bf16_product(const Bf16Task p) {
  let_next_start();
  __shared__ float4 shared[kM * kBf16Slab / 4];
  auto* x = reinterpret_cast<float*>(shared);
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32;
  const int64_t v = (int64_t{blockIdx.x} * kBf16Warps + tid / 32) * 16 + lane / 2;
  const __nv_bfloat16* row = p.weight + min(v, int64_t{p.rows} - 1) * p.columns;
  const int part = 8 * (lane % 2);
  const bool aligned = p.columns % kLane == 0;
  float sums[kM][kLane] = {};
  uint32_t ring[kBf16Ring][4];
#pragma unroll
  for (int d = 0; d < kBf16Ring; ++d) {
    if (16 * d < p.columns) load_weights(row, 16 * d + part, p.columns, aligned, ring[d]);
  }
  wait_for_previous();
  for (int c0 = 0; c0 < p.columns; c0 += kBf16Slab) {
    if (c0 > 0) __syncthreads();
    for (int i = tid; i < kM * kBf16Slab; i += 32 * kBf16Warps) {
      const int m = i / kBf16Slab, c = c0 + i % kBf16Slab;
      x[i] = m < p.m && c < p.columns ? p.x[m * p.ldx + c] : 0.0f;
    }
    __syncthreads();
    const int end = min(kBf16Slab, p.columns - c0);
    for (int base = 0; base < end; base += 16 * kBf16Ring) {
#pragma unroll
      for (int d = 0; d < kBf16Ring; ++d) {
        const int c = base + 16 * d;
        if (c >= end) break;
        // A product with padding could turn -0 into 0: none is made.
        add_weights<kM>(ring[d], x + c + part, end - c - part, sums);
        const int next = c0 + c + 16 * kBf16Ring;
        if (next < p.columns) load_weights(row, next + part, p.columns, aligned, ring[d]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    // s[i] + s[i + 8], which the neighbour has; then 4, 2 and 1.
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      sums[m][i] += __shfl_xor_sync(0xffffffffu, sums[m][i], 1);
    }
#pragma unroll
    for (int half = 4; half >= 1; half /= 2) {
#pragma unroll
      for (int i = 0; i < half; ++i) sums[m][i] += sums[m][i + half];
    }
    if (lane % 2 == 0 && v < p.rows && m < p.m) p.out[m * p.ldo + v] = sums[m][0];
  }
}

template <int kM>
void launch_bf16(const Bf16Task& task, Stream stream) {
  launch_dependent("table_gemm", bf16_product<kM>,
                   dim3(static_cast<unsigned>(count_of(task.rows, 16 * kBf16Warps))),
                   dim3(32 * kBf16Warps), 0, stream, task);
}

void bf16_products(const DeviceTable& table, const float* x, int64_t ldx, int64_t m, float* out,
                   int64_t ldo, Stream stream) {
  for (int64_t m0 = 0; m0 < m; m0 += kBf16Rows) {
    Bf16Task task;
    task.weight = static_cast<const __nv_bfloat16*>(table.weight);
    task.x = x + m0 * ldx;
    task.ldx = ldx;
    task.out = out + m0 * ldo;
    task.ldo = ldo;
    task.m = static_cast<int>(std::min<int64_t>(kBf16Rows, m - m0));
    task.rows = static_cast<int>(table.rows);
    task.columns = static_cast<int>(table.columns);
    if (task.m == 1) {
      launch_bf16<1>(task, stream);
    } else if (task.m == 2) {
      launch_bf16<2>(task, stream);
    } else if (task.m <= 4) {
      launch_bf16<4>(task, stream);
    } else {
      launch_bf16<8>(task, stream);
    }
  }
}

// --- embedding: a thread has 4 columns of a row

struct RowsTask {
  TableForm form;
  const void* weight;
  const float* row_units;
  const __nv_bfloat16* group_units;
  int64_t rows, columns;
  const int32_t* tokens;
};

__device__ void table_values(const RowsTask& p, int64_t v, int64_t c, float (&out)[4]) {
  if (p.form == TableForm::kBf16) {
    const auto* row = static_cast<const __nv_bfloat16*>(p.weight) + v * p.columns;
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = c + i < p.columns ? __bfloat162float(row[c + i]) : 0.0f;
    return;
  }
  const auto* words = static_cast<const uint32_t*>(p.weight);
  const int64_t block = c / kTileBlock;
  const int in_block = static_cast<int>(c % kTileBlock);
  const bool is_int8 = p.form == TableForm::kInt8;
  uint32_t u;
  float unit;
  if (is_int8) {
    u = words[lane_word(8, p.columns, v, block, in_block / 4)];
    unit = p.row_units[v];
  } else {
    u = words[lane_word(4, p.columns, v, block, in_block / 8, LaneOrder::kGroups)] >>
        (in_block % 8);
    const int64_t span = v / 16 * lane_spans(p.columns) + block / kSpanBlocks;
    unit =
        __bfloat162float(p.group_units[(span * 16 + v % 16) * kSpanBlocks + block % kSpanBlocks]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int byte = static_cast<int>(u >> (8 * i) & 255);
    out[i] = unit * static_cast<float>(is_int8 ? byte - 128 : (byte & 15) - 8);
  }
}

template <class D>
__global__ void __launch_bounds__(256) gather_rows(const RowsTask p, D* out) {
  wait_for_previous();
  let_next_start();  // what was written before the rows are gathered is complete to all that follow
  const int64_t c = (int64_t{blockIdx.y} * 256 + threadIdx.x) * 4;
  if (c >= p.columns) return;
  const int64_t v = p.tokens[blockIdx.x];
  float values[4];
  if (v >= 0 && v < p.rows) {
    table_values(p, v, c, values);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = __int_as_float(0x7fc00000);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (c + i < p.columns) out[blockIdx.x * p.columns + c + i] = from_float<D>(values[i]);
  }
}

}  // namespace

int64_t table_workspace_bytes(const DeviceTable& table, int64_t m) {
  if (table.form == TableForm::kBf16) return 0;
  return round_up16(2 * m * table.columns) + round_up16(4 * m) +
         round_up16(4 * m * count_of(table.columns, kGroup));
}

void table_gemm(const DeviceTable& table, const float* x, int64_t ldx, int64_t m, void* workspace,
                float* out, int64_t ldo, Stream stream) {
  if (m == 0 || table.rows == 0) return;
  if (table.form == TableForm::kBf16) return bf16_products(table, x, ldx, m, out, ldo, stream);
  check_table_columns(table.columns);
  const SplitRows all = split_rows(workspace, m, table.columns);
  launch_dependent("table_gemm", split_into_halves, dim3(static_cast<unsigned>(m)),
                   dim3(kSplitThreads), 0, stream, x, ldx, all);
  for (int64_t m0 = 0; m0 < m; m0 += kMaxHalves / 2) {
    const auto rows = static_cast<int>(std::min<int64_t>(kMaxHalves / 2, m - m0));
    SplitRows part = all;
    part.codes += 2 * m0 * all.columns;
    part.units += m0;
    part.terms += m0 * all.groups;
    if (table.form == TableForm::kInt4) {
      group_products(table, part, rows, out + m0 * ldo, ldo, stream);
      continue;
    }
    ProductTask task;
    task.lanes = static_cast<const uint4*>(table.weight);
    task.units = table.row_units;
    task.codes = part.codes;
    task.a_units = part.units;
    task.out = out + m0 * ldo;
    task.out_stride = ldo;
    task.m = 2 * rows;
    task.n = static_cast<int>(table.rows);
    task.k = static_cast<int>(table.columns);
    task.form = ProductForm::kHalves;
    task.w_offset = -128;
    launch_packed_product("table_gemm", 8, task, stream);
  }
}

template <class T>
void table_rows(const DeviceTable& table, const int32_t* tokens, int64_t m, T* out, Stream stream) {
  if (m == 0) return;
  const RowsTask task{table.form,      table.weight,
                      table.row_units, reinterpret_cast<const __nv_bfloat16*>(table.group_units),
                      table.rows,      table.columns,
                      tokens};
  launch_dependent(
      "table_rows", gather_rows<device_t<T>>,
      dim3(static_cast<unsigned>(m), static_cast<unsigned>(count_of(table.columns, 4 * 256))),
      dim3(256), 0, stream, task, dev(out));
}

std::string table_gemm_plan(const DeviceTable& table) {
  switch (table.form) {
    case TableForm::kInt8:
      return "int8, lane order, mma u8 x s8 of halves";
    case TableForm::kInt4:
      return "int4, lane order, mma u8 x s8 of halves, a group in each";
    default:
      return "bf16 rows, FP32 in order";
  }
}

template void table_rows<float>(const DeviceTable&, const int32_t*, int64_t, float*, Stream);
template void table_rows<bfloat16>(const DeviceTable&, const int32_t*, int64_t, bfloat16*, Stream);

}  // namespace quest::kernels::cuda
