// Every GPU kernel of the training step at the shapes of a model, beside the GPU's ceilings
// measured in the same run: copies of 1 GiB for kernels that move bytes, a large BF16 product for
// products.
//
//   kernels_gpu                        # 800M, 32 x 512 tokens
//   kernels_gpu --model 30M --batch 64
//   kernels_gpu --decode               # instead: what lies between the products of a decode step
//   kernels_gpu --inputs               # instead: the inputs of linear layers, 4096 rows
#include "bench/gpu_graph_time.h"
#include "bench/kernels_gpu/decode_kernels.h"
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <CLI/CLI.hpp>
#include <c10/cuda/CUDAGuard.h>

#include "quest/base/error.h"
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
#include "quest/train/gpu_step.h"
#include "quest/train/train_config.h"

namespace quest::bench {
namespace {

namespace gpu = kernels::cuda;
using ops::current_stream;
using ops::data;

at::Tensor normal(std::vector<int64_t> shape) {
  return at::randn(shape, on_gpu(at::kFloat)).to(at::kBFloat16);
}

// Median milliseconds of f; the arguments of the caller are larger than the L2 cache.
double milliseconds(const std::function<void()>& f) {
  for (int i = 0; i < 3; ++i) f();
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
    begin.record();
    f();
    end.record();
    end.synchronize();
    times.push_back(static_cast<double>(begin.elapsed_time(end)));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

class Table {
 public:
  Table() {
    const at::Tensor a = at::zeros({int64_t{1} << 28}, on_gpu(at::kFloat));
    at::Tensor b = at::empty_like(a);
    copy_rate_ = 2.0 * static_cast<double>(a.nbytes()) / milliseconds([&] { b.copy_(a); }) * 1e-9;
    product_rate_ = train::measure_gpu_flops(/*bf16=*/true) * 1e-12;
    fmt::print("{}; copy {:.2f} TB/s, BF16 product {:.0f} TFLOP/s\n", ops::gpu_description(),
               copy_rate_, product_rate_);
  }
  double copy_rate() const { return copy_rate_; }
  void bytes(const std::string& name, double count, const std::function<void()>& f) {
    const double ms = milliseconds(f), rate = count / ms * 1e-9;
    fmt::print("| {} | {:.4f} | {:.2f} TB/s | {:.0f} % |\n", name, ms, rate,
               100 * rate / copy_rate_);
  }
  // of_bf16: the peak over that of BF16 (int8: 2).
  void product(const std::string& name, double operations, double of_bf16,
               const std::function<void()>& f) {
    const double ms = milliseconds(f), rate = operations / ms * 1e-9;
    fmt::print("| {} | {:.4f} | {:.0f} TFLOP/s | {:.0f} % |\n", name, ms, rate,
               100 * rate / (of_bf16 * product_rate_));
  }

 private:
  double copy_rate_ = 0, product_rate_ = 0;
};

void run(const std::string& preset, int64_t batch, int64_t sequence) {
  train::TrainConfig config;
  train::apply_setting(config, "model.preset", preset);
  const LlamaConfig shape = train::resolve_model(config, 32000);
  const int64_t m = batch * sequence, c = shape.hidden_size, f = shape.intermediate_size;
  const int64_t heads = shape.num_heads, d = shape.head_dim, v = shape.vocab_size;
  const QuantSpec spec = recipe_from_name("w4a4").weight;
  const auto size = [](const at::Tensor& t) { return static_cast<double>(t.nbytes()); };
  Table table;
  fmt::print("\n| kernel | ms | rate | of the ceiling |\n|---|---|---|---|\n");

  const at::Tensor x = normal({m, c}), delta = normal({m, c}), h = at::empty_like(x);
  const at::Tensor w = at::randn({c}, on_gpu(at::kFloat)), inverse = at::empty({m}, w.options());
  const auto codes_of = [&](int64_t k) {
    return std::array<at::Tensor, 3>{at::empty({m, k}, on_gpu(at::kChar)),
                                     at::empty({m}, on_gpu(at::kFloat)),
                                     at::empty({m, k / 8}, on_gpu(at::kByte))};
  };
  const auto rows = [](const std::array<at::Tensor, 3>& q) {
    return gpu::QuantizedRows{data<int8_t>(q[0]), data<float>(q[1]), data<uint8_t>(q[2]), nullptr,
                              true};
  };
  const auto qc = codes_of(c), qf = codes_of(f);
  const double out_c = size(qc[0]) + size(qc[2]), out_f = size(qf[0]) + size(qf[2]);
  const auto* px = data<bfloat16>(x);
  table.bytes("Hadamard + quantize", size(x) + out_c, [&] {
    gpu::hadamard_quantize<bfloat16>(spec, px, m, c, rows(qc), current_stream());
  });
  table.bytes("add + RMSNorm + Hadamard + quantize", 3 * size(x) + out_c, [&] {
    gpu::add_rms_norm_hadamard_quantize<bfloat16>(spec, px, data<bfloat16>(delta), data<float>(w),
                                                  1e-5f, m, c, data<bfloat16>(h),
                                                  data<float>(inverse), rows(qc), current_stream());
  });
  table.bytes("add + RMSNorm", 4 * size(x), [&] {
    gpu::add_rms_norm<bfloat16>(px, data<bfloat16>(delta), data<float>(w), 1e-5f, m, c,
                                data<bfloat16>(h), data<bfloat16>(x), data<float>(inverse),
                                current_stream());
  });
  const at::Tensor grad_w = at::empty_like(w);
  const at::Tensor space = at::empty({gpu::rms_norm_backward_workspace(m, c)}, on_gpu(at::kFloat));
  const at::Tensor grad_h = at::empty_like(x);
  table.bytes("mask + Hadamard + RMSNorm backward + residual", 4 * size(x) + size(qc[2]), [&] {
    gpu::rms_norm_backward<bfloat16>(&spec, data<uint8_t>(qc[2]), px, data<bfloat16>(h),
                                     data<float>(w), data<float>(inverse), data<bfloat16>(delta), m,
                                     c, data<bfloat16>(grad_h), data<float>(grad_w),
                                     data<float>(space), current_stream());
  });
  const at::Tensor gate_up = normal({m, 2 * f}), grad_a = normal({m, f});
  const at::Tensor grad_gate_up = at::empty_like(gate_up), a = at::empty_like(grad_a);
  table.bytes("SwiGLU", size(gate_up) + size(a), [&] {
    gpu::swiglu<bfloat16>(data<bfloat16>(gate_up), m, f, data<bfloat16>(a), current_stream());
  });
  table.bytes("SwiGLU + Hadamard + quantize", size(gate_up) + out_f, [&] {
    gpu::swiglu_hadamard_quantize<bfloat16>(spec, data<bfloat16>(gate_up), m, f, rows(qf),
                                            current_stream());
  });
  table.bytes("mask + Hadamard + SwiGLU backward", 2 * size(gate_up) + size(grad_a) + size(qf[2]),
              [&] {
                gpu::swiglu_backward<bfloat16>(&spec, data<uint8_t>(qf[2]), data<bfloat16>(grad_a),
                                               data<bfloat16>(gate_up), m, f,
                                               data<bfloat16>(grad_gate_up), current_stream());
              });
  table.bytes("mask + Hadamard", 2 * size(x) + size(qc[2]), [&] {
    gpu::mask_hadamard<bfloat16>(spec, px, data<uint8_t>(qc[2]), m, c, data<bfloat16>(h),
                                 current_stream());
  });
  table.bytes("codes to values", size(qf[0]) + size(a), [&] {
    gpu::dequantize_rows<bfloat16>(spec, data<int8_t>(qf[0]), data<float>(qf[1]), m, f,
                                   data<bfloat16>(a), current_stream());
  });
  const at::Tensor master = at::randn({2 * f, c}, on_gpu(at::kFloat)), wv = normal({2 * f, c});
  const at::Tensor wc = at::empty({2 * f, c}, on_gpu(at::kChar));
  const at::Tensor wu = at::empty({2 * f}, on_gpu(at::kFloat));
  const at::Tensor wm = at::empty({2 * f, c / 8}, on_gpu(at::kByte));
  table.bytes("weight Hadamard + quantize", size(master) + size(wv) + size(wc) + size(wm), [&] {
    gpu::hadamard_quantize<float>(
        spec, data<float>(master), 2 * f, c,
        {data<int8_t>(wc), data<float>(wu), data<uint8_t>(wm), wv.data_ptr(), true},
        current_stream());
  });
  const at::Tensor bytes = at::empty({m, 2 * f}, on_gpu(at::kByte)), big = normal({m, 2 * f});
  const at::Tensor cs = at::empty({2 * f}, on_gpu(at::kFloat)), rs = at::ones({m}, cs.options());
  const at::Tensor work = at::empty({m + 2 * f}, on_gpu(at::kInt));
  const at::Tensor bytes2 = at::empty_like(bytes), rs2 = at::empty_like(rs);
  table.bytes("gradient to FP8, by rows and by columns", 2 * size(big) + 2 * size(bytes), [&] {
    gpu::fp8_gradient(data<bfloat16>(big), data<float>(wu), data<float>(rs), m, 2 * f, {},
                      data<uint8_t>(bytes), data<float>(rs2), data<uint8_t>(bytes2),
                      data<float>(cs), data<uint32_t>(work), current_stream());
  });
  table.bytes("codes turned to FP8", 2 * size(qf[0]), [&] {
    gpu::fp8_turn_codes(data<int8_t>(qf[0]), m, f, data<uint8_t>(bytes), current_stream());
  });
  const at::Tensor qkv = normal({m, 3 * heads * d});
  const at::Tensor cos = at::randn({sequence, d / 2}, on_gpu(at::kFloat)), sin = cos.clone();
  table.bytes("rotary on q and k", 2 * size(qkv) * 2 / 3, [&] {
    gpu::rope<bfloat16>(data<bfloat16>(qkv), m, 3 * heads * d, 2 * heads, d, sequence, 0,
                        data<float>(cos), data<float>(sin), +1, current_stream());
  });
  table.bytes("rotary backward into qkv", 2 * size(qkv), [&] {
    gpu::rope_backward_qkv<bfloat16>(px, data<bfloat16>(delta), data<bfloat16>(h), m, heads, heads,
                                     d, sequence, data<float>(cos), data<float>(sin),
                                     data<bfloat16>(qkv), current_stream());
  });
  const int64_t chunk = std::min<int64_t>(m, 4096);
  const at::Tensor logits = normal({chunk, v}), losses = at::empty({chunk}, on_gpu(at::kFloat));
  const at::Tensor targets = at::randint(0, v, {chunk}, on_gpu(at::kLong));
  const at::Tensor scale = at::zeros({1}, on_gpu(at::kFloat));
  table.bytes("cross-entropy with gradient", 2 * size(logits), [&] {
    gpu::cross_entropy<bfloat16>(data<bfloat16>(logits), data<int64_t>(targets), chunk, v,
                                 data<float>(scale), data<float>(losses), current_stream());
  });
  const at::Tensor g = at::randn_like(master), m1 = at::zeros_like(master);
  const at::Tensor m2 = at::zeros_like(master), control = at::zeros({8}, on_gpu(at::kFloat));
  const at::Tensor partials = at::empty({gpu::kSquareBlocks}, on_gpu(at::kDouble));
  table.bytes("squares of a gradient", size(g), [&] {
    gpu::gradient_squares(data<float>(g), g.numel(), data<double>(partials), current_stream());
  });
  table.bytes("AdamW", 7 * size(g), [&] {
    gpu::adamw(data<float>(master), data<float>(g), data<float>(m1), data<float>(m2), g.numel(), {},
               data<float>(control), current_stream());
  });
  for (const auto& [name, n, k] : {std::tuple{"QKV", 3 * heads * d, c},
                                   {"attention out", c, heads * d},
                                   {"gate and up", 2 * f, c},
                                   {"down", c, f}}) {
    if (!gpu::gemm_lowbit_supports(n, k)) continue;
    const at::Tensor ac = at::randint(-15, 16, {m, k}, on_gpu(at::kChar));
    const at::Tensor bc = at::randint(-15, 16, {n, k}, on_gpu(at::kChar));
    const at::Tensor au = at::randn({m}, on_gpu(at::kFloat)), bu = at::randn({n}, au.options());
    const at::Tensor y = at::empty({m, n}, on_gpu(at::kBFloat16));
    const double operations = 2.0 * static_cast<double>(m * n * k);
    table.product(fmt::format("product of codes, {} {} x {}", name, k, n), operations, 2, [&] {
      gpu::gemm_lowbit<bfloat16>(data<int8_t>(ac), data<float>(au), data<int8_t>(bc),
                                 data<float>(bu), m, n, k, data<bfloat16>(y), current_stream());
    });
  }
}

// What a linear layer of an 800M or 7B model does before its product, one of many launches of a
// graph. Rows come from memory: copies of them in turn, more than the L2 cache holds.
void run_inputs(int64_t m) {
  const double copy_rate = Table().copy_rate();
  fmt::print("\n| inputs of linear layers | us | rate | of the copy rate |\n|---|---|---|---|\n");
  constexpr int64_t kBytes = int64_t{400} << 20;
  for (const int64_t k : {2048, 4096, 5632, 11008}) {
    const int64_t copies = kBytes / (5 * m * k) + 2;
    const at::Tensor x = normal({copies, m, 2 * k}), w = at::randn({k}, on_gpu(at::kFloat));
    const at::Tensor h = at::empty({m, k}, x.options());
    const at::Tensor codes = at::empty({copies, m, k}, on_gpu(at::kChar));
    const at::Tensor units = at::empty({m}, w.options()), inverse = at::empty({m}, w.options());
    const at::Tensor mask = at::empty({m, k / 8}, on_gpu(at::kByte));
    const auto values = static_cast<double>(m * k);
    for (const char* name : {"int4.trust", "int4.hadamard.trust"}) {
      const QuantSpec spec = spec_from_string(name);
      for (const bool masked : {false, true}) {
        const auto print = [&](const char* what, double bytes_in, const auto& f) {
          const double bytes = values * (bytes_in + (masked ? 1.125 : 1.0));
          c10::cuda::device_synchronize();  // the arguments were made in another stream
          const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
          const double us = microseconds(4 * copies, [&](int64_t i) {
            const int64_t copy = i % copies;
            f(data<bfloat16>(x) + copy * m * 2 * k,
              gpu::QuantizedRows{data<int8_t>(codes) + copy * m * k, data<float>(units),
                                 masked ? data<uint8_t>(mask) : nullptr});
          });
          const double rate = bytes / us * 1e-6;
          fmt::print("| {}, {} x {}, {}{} | {:.2f} | {:.2f} TB/s | {:.0f} % |\n", what, m, k, name,
                     masked ? ", mask" : "", us, rate, 100 * rate / copy_rate);
        };
        print("quantize", 2, [&](const bfloat16* rows, const gpu::QuantizedRows& to) {
          gpu::hadamard_quantize<bfloat16>(spec, rows, m, k, to, current_stream());
        });
        print("SwiGLU + quantize", 4, [&](const bfloat16* rows, const gpu::QuantizedRows& to) {
          gpu::swiglu_hadamard_quantize<bfloat16>(spec, rows, m, k, to, current_stream());
        });
        print("add + RMSNorm + quantize", 6,
              [&](const bfloat16* rows, const gpu::QuantizedRows& to) {
                gpu::add_rms_norm_hadamard_quantize<bfloat16>(
                    spec, rows, rows + m * k, data<float>(w), 1e-5f, m, k, data<bfloat16>(h),
                    data<float>(inverse), to, current_stream());
              });
      }
    }
  }
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  CLI::App app("GPU kernels of the training step beside the GPU's ceilings");
  std::string model = "800M";
  int64_t batch = 32, sequence = 512;
  app.add_option("--model", model, "model size: 30M, ... 1.6B");
  app.add_option("--batch", batch, "sequences")->check(CLI::PositiveNumber);
  app.add_option("--seq", sequence, "tokens of a sequence")->check(CLI::PositiveNumber);
  bool decode = false;
  app.add_flag("--decode", decode, "the kernels between the products of a decode step instead");
  bool inputs = false;
  int64_t rows = 4096;
  app.add_flag("--inputs", inputs, "the inputs of linear layers instead");
  app.add_option("--rows", rows, "of --inputs")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    quest::train::prepare_gpu(false);
    if (inputs) {
      quest::bench::run_inputs(rows);
    } else if (decode) {
      quest::bench::run_decode_kernels(quest::bench::Table().copy_rate());
    } else {
      quest::bench::run(model, batch, sequence);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "kernels_gpu: {}\n", error.what());
    return 1;
  }
  return 0;
}
