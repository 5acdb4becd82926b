// deploy.h: sources of rows in the orders of the CPU's engine, for the quantizer of
// quantize_row.cuh.
#include "quest/kernels/cuda/deploy.h"
#include "quest/kernels/cuda/deploy_math.cuh"
#include "quest/kernels/cuda/quantize_row_parts.cuh"
#include "quest/kernels/cuda/sources.cuh"

namespace quest::kernels::cuda::deploy {
namespace {

constexpr int kThreads = 256;
constexpr int kAhead = 16;  // values that a lane fetches before it adds them up

// One warp: lane l adds the squares of values 32 j + l, j < groups, to `sum` in order. The next
// values come while these are added.
__device__ float add_squares(const float* values, int groups, float sum) {
  const float* mine = values + threadIdx.x;
  float now[kAhead];
  const auto fetch = [&](int first) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) now[i] = mine[(first + i) * 32];
  };
  const int whole = groups / kAhead * kAhead;
  if (whole > 0) fetch(0);
  for (int j = 0; j < whole; j += kAhead) {
    float old[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) old[i] = now[i];
    if (j + kAhead < whole) fetch(j + kAhead);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) sum = __fmaf_rn(old[i], old[i], sum);
  }
  for (int j = whole; j < groups; ++j) sum = __fmaf_rn(mine[j * 32], mine[j * 32], sum);
  return sum;
}

// rms_norm_lanes (quest/kernels/x86/rms_norm_body.h): s0 in lanes 0 to 15, s1 in 16 to 31.
struct NormSum {
  float sum = 0.0f;

  // `count` values of the row that begin at a multiple of 32; count % 32 only at its end.
  __device__ void add(const float* values, int count) {
    const int groups = count / 32, rest = count % 32, lane = threadIdx.x;
    sum = add_squares(values, groups, sum);
    // A last whole group of 16 belongs to s0, what is less than 16 to s1.
    const int at = rest < 16 ? lane - 16 : lane;
    if (at >= 0 && at < rest) {
      const float value = values[groups * 32 + at];
      sum = __fmaf_rn(value, value, sum);
    }
  }
  __device__ float inverse_rms(int c, float eps) {
#pragma unroll
    for (int step = 16; step >= 1; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return 1.0f / sqrtf(sum / static_cast<float>(c) + eps);
  }
};

// RMSNorm of x + delta. The partial sums run along the row, so the row goes through shared memory
// and one warp adds it up.
struct NormRows {
  static constexpr int kRounds = 1;
  const float* x;
  const float* delta;  // or null
  const float* weight;
  float eps;
  float* h;  // or null

  template <int kCount>
  __device__ void load(int64_t row, int k, bool vector, float (&v)[kCount][kLane],
                       float* scratch) const {
    __shared__ __align__(16) float part[kRowThreads * kLane];
    const int width = blockDim.x * kLane;
    const auto count_at = [&](int column) { return column < k ? min(kLane, k - column) : 0; };
    constexpr bool kWeightsFirst = kCount <= 2;  // while they fit in registers
    float w[kWeightsFirst ? kCount : 1][kLane];
    if constexpr (kWeightsFirst) {
#pragma unroll
      for (int r = 0; r < kCount; ++r) {
        const int column = r * width + threadIdx.x * kLane;
        load_part(weight + column, count_at(column), vector && column < k, w[r]);
      }
    }
    wait_for_previous();
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int column = r * width + threadIdx.x * kLane, count = count_at(column);
      const bool whole = vector && column < k;
      const int64_t at = row * k + column;
      load_part(x + at, count, whole, v[r]);
      if (delta != nullptr) {
        float d[kLane];
        load_part(delta + at, count, whole, d);
#pragma unroll
        for (int i = 0; i < kLane; ++i) v[r][i] += d[i];
        if (count > 0) store_part(h + at, count, whole, v[r]);
      }
    }
    NormSum sum;
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      if (r > 0) __syncthreads();
      store8(part + threadIdx.x * kLane, v[r]);
      __syncthreads();
      if (threadIdx.x < 32) sum.add(part, max(0, min(width, k - r * width)));
    }
    if (threadIdx.x < 32) {
      const float inverse = sum.inverse_rms(k, eps);
      if (threadIdx.x == 0) scratch[0] = inverse;
    }
    __syncthreads();
    const float inverse = scratch[0];
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int column = r * width + threadIdx.x * kLane;
      float later[kLane];
      if constexpr (!kWeightsFirst) {
        load_part(weight + column, count_at(column), vector && column < k, later);
      }
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        v[r][i] = v[r][i] * inverse * (kWeightsFirst ? w[kWeightsFirst ? r : 0][i] : later[i]);
      }
    }
  }
};

struct SwigluRows32 {
  static constexpr int kRounds = 2;
  const float* gate_up;

  template <int kCount>
  __device__ void load(int64_t row, int k, bool vector, float (&v)[kCount][kLane], float*) const {
    wait_for_previous();
    float up[kCount][kLane];
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int column = (r * blockDim.x + threadIdx.x) * kLane;
      const int count = column < k ? min(kLane, k - column) : 0;
      fetch(row, k, column, count, vector && column < k, v[r], up[r]);
    }
#pragma unroll
    for (int r = 0; r < kCount; ++r) multiply(v[r], up[r]);
  }
  __device__ void load8_of(int64_t row, int k, int column, int count, bool whole,
                           float (&v)[kLane]) const {
    wait_for_previous();
    float up[kLane];
    fetch(row, k, column, count, whole, v, up);
    multiply(v, up);
  }

 private:
  __device__ void fetch(int64_t row, int k, int column, int count, bool whole, float (&gate)[kLane],
                        float (&up)[kLane]) const {
    load_part(gate_up + row * 2 * k + column, count, whole, gate);
    load_part(gate_up + row * 2 * k + k + column, count, whole, up);
  }
  __device__ static void multiply(float (&gate)[kLane], const float (&up)[kLane]) {
#pragma unroll
    for (int i = 0; i < kLane; ++i) gate[i] = gate[i] * sigmoid_as_cpu(gate[i]) * up[i];
  }
};

// The rows themselves.
struct GivenRows : PlainRows<float> {
  __device__ void load8_of(int64_t row, int k, int column, int count, bool whole,
                           float (&v)[kLane]) const {
    wait_for_previous();
    load_part(x + row * k + column, count, whole, v);
  }
};

__global__ void add_values(const float* x, int64_t n, float* y) {
  let_next_start();
  wait_for_previous();
  const int64_t at = (blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x) * 4;
  if (at + 4 <= n) {
    const float4 a = *reinterpret_cast<const float4*>(x + at);
    float4 b = *reinterpret_cast<const float4*>(y + at);
    b.x += a.x, b.y += a.y, b.z += a.z, b.w += a.w;
    *reinterpret_cast<float4*>(y + at) = b;
    return;
  }
  for (int64_t i = at; i < n; ++i) y[i] += x[i];
}

RowsOut rows_out(const QuantizedRows& out) {
  return {out.codes, out.units, out.mask, out.values, out.values_are_bfloat16};
}

void launch_norm(const char* operation, const QuantSpec& spec, const NormRows& source, int64_t m,
                 int64_t k, const QuantizedRows& out, Stream stream) {
  launch_quantize_rows(operation, source, make_row_rule(spec, k), m, k, rows_out(out), stream,
                       /*overlaps=*/true);
}

template <class Source>
void launch(const char* operation, const QuantSpec& spec, const Source& source, int64_t m,
            int64_t k, const QuantizedRows& out, Stream stream) {
  launch_few_rows(operation, source, make_row_rule(spec, k), m, k, rows_out(out), stream);
}

QuantizedRows plain(float* y) {
  QuantizedRows out;
  out.values = y;
  out.values_are_bfloat16 = false;
  return out;
}

}  // namespace

void add_norm_quantize(const QuantSpec& spec, const float* x, const float* delta,
                       const float* weight, float eps, int64_t m, int64_t c, float* h,
                       const QuantizedRows& out, Stream stream) {
  launch_norm("add_norm_quantize", spec, NormRows{x, delta, weight, eps, h}, m, c, out, stream);
}

void swiglu_quantize(const QuantSpec& spec, const float* gate_up, int64_t m, int64_t f,
                     const QuantizedRows& out, Stream stream) {
  launch("swiglu_quantize", spec, SwigluRows32{gate_up}, m, f, out, stream);
}

void quantize(const QuantSpec& spec, const float* x, int64_t m, int64_t k, const QuantizedRows& out,
              Stream stream) {
  launch("quantize", spec, GivenRows{{x}}, m, k, out, stream);
}

void add_norm(const float* x, const float* delta, const float* weight, float eps, int64_t m,
              int64_t c, float* h, float* y, Stream stream) {
  launch_norm("add_norm", QuantSpec{}, NormRows{x, delta, weight, eps, h}, m, c, plain(y), stream);
}

void swiglu(const float* gate_up, int64_t m, int64_t f, float* y, Stream stream) {
  launch("swiglu", QuantSpec{}, SwigluRows32{gate_up}, m, f, plain(y), stream);
}

void add(const float* x, int64_t n, float* y, Stream stream) {
  if (n == 0) return;
  constexpr int64_t kPerBlock = 4 * kThreads;
  launch_dependent("add", &add_values, dim3(static_cast<unsigned>((n + kPerBlock - 1) / kPerBlock)),
                   dim3(kThreads), 0, stream, x, n, y);
}

}  // namespace quest::kernels::cuda::deploy
