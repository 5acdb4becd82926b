#include "bench/kernels_gpu/train_kernels.h"

#include "bench/gpu_graph_time.h"
#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include "quest/kernels/cuda/adamw.h"
#include "quest/kernels/cuda/cross_entropy.h"
#include "quest/kernels/cuda/fp8_gradient.h"
#include "quest/kernels/cuda/gemm_lowbit.h"
#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/rms_norm.h"
#include "quest/kernels/cuda/rope.h"
#include "quest/kernels/cuda/swiglu.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/train/train_config.h"

namespace quest::bench {
namespace {

namespace gpu = kernels::cuda;
using ops::current_stream;
using ops::data;

double size(const at::Tensor& t) { return static_cast<double>(t.nbytes()); }

struct Shape {
  int64_t m, c, f, heads, d, v, sequence;  // m: tokens
  QuantSpec spec;
};

// Rows of k values, quantized.
struct Codes {
  Codes(int64_t m, int64_t k)
      : codes(at::empty({m, k}, on_gpu(at::kChar))),
        units(at::empty({m}, on_gpu(at::kFloat))),
        mask(at::empty({m, k / 8}, on_gpu(at::kByte))) {}

  gpu::QuantizedRows rows() const {
    return {data<int8_t>(codes), data<float>(units), data<uint8_t>(mask), nullptr, true};
  }
  double bytes() const { return size(codes) + size(mask); }

  at::Tensor codes, units, mask;
};

void time_residual_stream(const Table& table, const Shape& s) {
  const int64_t m = s.m, c = s.c;
  const at::Tensor x = normal({m, c}), delta = normal({m, c}), h = at::empty_like(x);
  const at::Tensor w = at::randn({c}, on_gpu(at::kFloat)), inverse = at::empty({m}, w.options());
  const at::Tensor y = at::empty_like(x);
  const Codes q(m, c);
  const auto* px = data<bfloat16>(x);
  table.bytes("Hadamard + quantize", size(x) + q.bytes(), [&] {
    gpu::hadamard_quantize<bfloat16>(s.spec, px, m, c, q.rows(), current_stream());
  });
  table.bytes("add + RMSNorm + Hadamard + quantize", 3 * size(x) + q.bytes(), [&] {
    gpu::add_rms_norm_hadamard_quantize<bfloat16>(s.spec, px, data<bfloat16>(delta), data<float>(w),
                                                  1e-5f, m, c, data<bfloat16>(h),
                                                  data<float>(inverse), q.rows(), current_stream());
  });
  table.bytes("add + RMSNorm", 4 * size(x), [&] {
    gpu::add_rms_norm<bfloat16>(px, data<bfloat16>(delta), data<float>(w), 1e-5f, m, c,
                                data<bfloat16>(h), data<bfloat16>(y), data<float>(inverse),
                                current_stream());
  });
  const at::Tensor grad_w = at::empty_like(w), grad_h = at::empty_like(x);
  const at::Tensor space = at::empty({gpu::rms_norm_backward_workspace(m, c)}, on_gpu(at::kFloat));
  table.bytes("mask + Hadamard + RMSNorm backward + residual", 4 * size(x) + size(q.mask), [&] {
    gpu::rms_norm_backward<bfloat16>(&s.spec, data<uint8_t>(q.mask), px, data<bfloat16>(h),
                                     data<float>(w), data<float>(inverse), data<bfloat16>(delta), m,
                                     c, data<bfloat16>(grad_h), data<float>(grad_w),
                                     data<float>(space), current_stream());
  });
  table.bytes("mask + Hadamard", 2 * size(x) + size(q.mask), [&] {
    gpu::mask_hadamard<bfloat16>(s.spec, px, data<uint8_t>(q.mask), m, c, data<bfloat16>(h),
                                 current_stream());
  });
}

void time_mlp(const Table& table, const Shape& s) {
  const int64_t m = s.m, f = s.f;
  const at::Tensor gate_up = normal({m, 2 * f}), grad = normal({m, f});
  const at::Tensor grad_gate_up = at::empty_like(gate_up), a = at::empty_like(grad);
  const Codes q(m, f);
  table.bytes("SwiGLU", size(gate_up) + size(a), [&] {
    gpu::swiglu<bfloat16>(data<bfloat16>(gate_up), m, f, data<bfloat16>(a), current_stream());
  });
  table.bytes("SwiGLU + Hadamard + quantize", size(gate_up) + q.bytes(), [&] {
    gpu::swiglu_hadamard_quantize<bfloat16>(s.spec, data<bfloat16>(gate_up), m, f, q.rows(),
                                            current_stream());
  });
  table.bytes("mask + Hadamard + SwiGLU backward", 2 * size(gate_up) + size(grad) + size(q.mask),
              [&] {
                gpu::swiglu_backward<bfloat16>(&s.spec, data<uint8_t>(q.mask), data<bfloat16>(grad),
                                               data<bfloat16>(gate_up), m, f,
                                               data<bfloat16>(grad_gate_up), current_stream());
              });
  table.bytes("codes to values", size(q.codes) + size(a), [&] {
    gpu::dequantize_rows<bfloat16>(s.spec, data<int8_t>(q.codes), data<float>(q.units), m, f,
                                   data<bfloat16>(a), current_stream());
  });
}

// Of the largest weight of a block, once in a step; the optimizer's of all weights of a block.
void time_weights(const Table& table, const Shape& s) {
  const int64_t n = 2 * s.f, k = s.c;
  const at::Tensor master = at::randn({n, k}, on_gpu(at::kFloat)), values = normal({n, k});
  const Codes q(n, k);
  table.bytes("weight Hadamard + quantize", size(master) + size(values) + q.bytes(), [&] {
    gpu::QuantizedRows rows = q.rows();
    rows.values = values.data_ptr();
    gpu::hadamard_quantize<float>(s.spec, data<float>(master), n, k, rows, current_stream());
  });
  const int64_t heads = s.heads * s.d;
  std::vector<std::array<at::Tensor, 4>> kept;  // weight, gradient, moments
  std::vector<gpu::GradientValues> gradients;
  std::vector<gpu::AdamWTensor> tensors;
  double bytes = 0;
  for (const int64_t count : {s.c, 3 * heads * s.c, s.c * heads, s.c, n * k, s.c * s.f}) {
    const at::Tensor w = at::randn({count}, on_gpu(at::kFloat));
    kept.push_back({w, at::randn_like(w), at::zeros_like(w), at::zeros_like(w)});
    const auto& [weight, grad, first, second] = kept.back();
    gradients.push_back({data<float>(grad), count});
    tensors.push_back({data<float>(weight), data<float>(grad), data<float>(first),
                       data<float>(second), count, 0.1f});
    bytes += size(w);
  }
  const auto all = static_cast<int64_t>(tensors.size());
  const at::Tensor control = at::zeros({8}, on_gpu(at::kFloat));
  const at::Tensor partials = at::empty({all, gpu::kSquareBlocks}, on_gpu(at::kDouble));
  table.bytes("squares of a block's gradients", bytes, [&] {
    gpu::gradient_squares(gradients.data(), all, data<double>(partials), current_stream());
  });
  table.bytes("AdamW of a block's weights", 7 * bytes,
              [&] { gpu::adamw(tensors.data(), all, {}, data<float>(control), current_stream()); });
}

void time_fp8_gradients(const Table& table, const Shape& s) {
  const int64_t m = s.m, n = 2 * s.f;
  const at::Tensor dy = normal({m, n}), rows = at::empty({m, n}, on_gpu(at::kByte));
  const at::Tensor turned = at::empty_like(rows), work = at::empty({m + n}, on_gpu(at::kInt));
  const at::Tensor w_units = at::randn({n}, on_gpu(at::kFloat)).abs();
  const at::Tensor x_units = at::ones({m}, on_gpu(at::kFloat));
  const at::Tensor row_scales = at::empty_like(x_units), column_scales = at::empty_like(w_units);
  table.bytes("gradient to FP8, by rows and by columns", 2 * size(dy) + 2 * size(rows), [&] {
    gpu::fp8_gradient(data<bfloat16>(dy), data<float>(w_units), data<float>(x_units), m, n, {},
                      data<uint8_t>(rows), data<float>(row_scales), data<uint8_t>(turned),
                      data<float>(column_scales), data<uint32_t>(work), current_stream());
  });
  table.bytes("gradient rotated to FP8, by rows", size(dy) + size(rows), [&] {
    gpu::fp8_hadamard_rows<bfloat16>(data<bfloat16>(dy), data<float>(w_units), m, n, {},
                                     data<uint8_t>(rows), data<float>(row_scales),
                                     current_stream());
  });
  const at::Tensor copy = at::empty({n, m}, dy.options());
  table.bytes("gradient turned in BF16", 2 * size(dy), [&] { copy.copy_(dy.t()); });
  const at::Tensor codes = at::randint(-15, 16, {m, s.f}, on_gpu(at::kChar));
  table.bytes("codes turned to FP8", 2 * size(codes), [&] {
    gpu::fp8_turn_codes(data<int8_t>(codes), m, s.f, data<uint8_t>(turned), current_stream());
  });
}

void time_rotary(const Table& table, const Shape& s) {
  const int64_t m = s.m, heads = s.heads, d = s.d, width = heads * d;
  const at::Tensor qkv = normal({m, 3 * width}), q = normal({m, width});
  const at::Tensor k = normal({m, width}), v = normal({m, width});
  const at::Tensor cos = at::randn({s.sequence, d / 2}, on_gpu(at::kFloat)), sin = cos.clone();
  table.bytes("rotary on q and k", 2 * size(qkv) * 2 / 3, [&] {
    gpu::rope<bfloat16>(data<bfloat16>(qkv), m, 3 * width, 2 * heads, d, s.sequence, 0,
                        data<float>(cos), data<float>(sin), current_stream());
  });
  table.bytes("rotary backward into qkv", 2 * size(qkv), [&] {
    gpu::rope_backward_qkv<bfloat16>(data<bfloat16>(q), data<bfloat16>(k), data<bfloat16>(v), m,
                                     heads, heads, d, s.sequence, data<float>(cos),
                                     data<float>(sin), data<bfloat16>(qkv), current_stream());
  });
}

void time_loss(const Table& table, const Shape& s) {
  const int64_t chunk = std::min<int64_t>(s.m, 4096);
  const at::Tensor logits = normal({chunk, s.v}), losses = at::empty({chunk}, on_gpu(at::kFloat));
  const at::Tensor targets = at::randint(0, s.v, {chunk}, on_gpu(at::kLong));
  const at::Tensor scale = at::zeros({1}, on_gpu(at::kFloat));
  table.bytes("cross-entropy with gradient", 2 * size(logits), [&] {
    gpu::cross_entropy<bfloat16>(data<bfloat16>(logits), data<int64_t>(targets), chunk, s.v,
                                 data<float>(scale), data<float>(losses), current_stream());
  });
}

void time_products(const Table& table, const Shape& s) {
  for (const auto& [name, n, k] : {std::tuple{"QKV", 3 * s.heads * s.d, s.c},
                                   {"attention out", s.c, s.heads * s.d},
                                   {"gate and up", 2 * s.f, s.c},
                                   {"down", s.c, s.f}}) {
    if (!gpu::gemm_lowbit_supports(n, k)) continue;
    const at::Tensor a = at::randint(-15, 16, {s.m, k}, on_gpu(at::kChar));
    const at::Tensor w = at::randint(-15, 16, {n, k}, on_gpu(at::kChar));
    const at::Tensor au = at::randn({s.m}, on_gpu(at::kFloat)), wu = at::randn({n}, au.options());
    const at::Tensor y = at::empty({s.m, n}, on_gpu(at::kBFloat16));
    const double operations = 2.0 * static_cast<double>(s.m * n * k);
    table.product(fmt::format("product of codes, {} {} x {}", name, k, n), operations, 2,
                  [&, n = n, k = k] {
                    gpu::gemm_lowbit<bfloat16>(data<int8_t>(a), data<float>(au), data<int8_t>(w),
                                               data<float>(wu), s.m, n, k, data<bfloat16>(y),
                                               current_stream());
                  });
  }
}

}  // namespace

void run_train_kernels(const Table& table, const std::string& preset, int64_t batch,
                       int64_t sequence) {
  train::TrainConfig config;
  train::apply_setting(config, "model.preset", preset);
  const LlamaConfig model = train::resolve_model(config, 32000);
  const Shape shape{batch * sequence,
                    model.hidden_size,
                    model.intermediate_size,
                    model.num_heads,
                    model.head_dim,
                    model.vocab_size,
                    sequence,
                    recipe_from_name("w4a4").weight};
  table.print_head();
  for (const auto time : {time_residual_stream, time_mlp, time_weights, time_fp8_gradients,
                          time_rotary, time_loss, time_products}) {
    time(table, shape);
  }
}

}  // namespace quest::bench
