// deploy.h: sources of rows in the orders of the CPU's engine, for the quantizer of
// quantize_row.cuh.
#include "quest/kernels/cuda/deploy.h"
#include "quest/kernels/cuda/deploy_math.cuh"
#include "quest/kernels/cuda/norm_rows.cuh"
#include "quest/kernels/cuda/sources.cuh"

namespace quest::kernels::cuda::deploy {
namespace {

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

void norm(const char* operation, const QuantSpec& spec, const float* x, const float* delta,
          const float* weight, float eps, int64_t m, int64_t c, float* h, const QuantizedRows& out,
          Stream stream) {
  const RowRule rule = make_row_rule(spec, c);
  if (spec.is_quantized() && rule.rounds) {
    launch_norm(operation, NormRows<true>{x, delta, weight, eps, h}, rule, m, c, out, stream);
  } else {
    launch_norm(operation, NormRows<false>{x, delta, weight, eps, h}, rule, m, c, out, stream);
  }
}

template <class Source>
void launch(const char* operation, const QuantSpec& spec, const Source& source, int64_t m,
            int64_t k, const QuantizedRows& out, Stream stream) {
  launch_few_rows(operation, source, make_row_rule(spec, k), m, k, out, stream);
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
  norm("add_norm_quantize", spec, x, delta, weight, eps, m, c, h, out, stream);
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
  norm("add_norm", QuantSpec{}, x, delta, weight, eps, m, c, h, plain(y), stream);
}

}  // namespace quest::kernels::cuda::deploy
