#include "bench/kernels_gpu/decode_kernels.h"

#include "bench/gpu_graph_time.h"
#include <functional>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <fmt/format.h>

#include "quest/kernels/cuda/attention_decode.h"
#include "quest/kernels/cuda/deploy.h"
#include "quest/kernels/cuda/sample.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"

namespace quest::bench {
namespace {

namespace gpu = kernels::cuda::deploy;
using ops::current_stream;
using ops::data;

constexpr int64_t kC = 4096, kF = 11008, kHeads = 32, kD = 128;  // of a 7B model
constexpr int kLayers = 32;                                      // launches in a graph

// Median microseconds of one of f(0), ..., f(kLayers - 1).
double microseconds(const std::function<void(int)>& f) {
  c10::cuda::device_synchronize();  // the arguments were made in another stream
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  return bench::microseconds(kLayers, [&](int64_t i) { f(static_cast<int>(i)); });
}

void print(const std::string& name, double bytes, double copy_rate,
           const std::function<void(int)>& f) {
  const double us = microseconds(f), rate = bytes / us * 1e-3;
  fmt::print("| {} | {:.2f} | {:.0f} GB/s | {:.0f} % |\n", name, us, rate, rate / copy_rate / 10);
}

void row_kernels(const QuantSpec& spec, int64_t m, double copy_rate) {
  const auto bytes_of = [](double floats, double codes) { return 4 * floats + codes; };
  const auto rows = static_cast<double>(m);
  const at::Tensor x = at::randn({kLayers, m, 2 * kF}, on_gpu(at::kFloat)), delta = x.clone();
  const at::Tensor weight = at::randn({kC}, on_gpu(at::kFloat));
  const at::Tensor codes = at::empty({m, kF}, on_gpu(at::kChar));
  const at::Tensor units = at::empty({m}, on_gpu(at::kFloat));
  kernels::cuda::QuantizedRows out;
  out.codes = data<int8_t>(codes);
  out.units = data<float>(units);
  const auto at_layer = [&](const at::Tensor& t, int i) { return data<float>(t) + i * m * 2 * kF; };
  print(fmt::format("add + RMSNorm + Hadamard + quantize, {} x {}", m, kC),
        rows * bytes_of(3 * kC, kC), copy_rate, [&](int i) {
          gpu::add_norm_quantize(spec, at_layer(x, i), at_layer(delta, i), data<float>(weight),
                                 1e-5f, m, kC, at_layer(x, i), out, current_stream());
        });
  print(fmt::format("SwiGLU + Hadamard + quantize, {} x {}", m, kF), rows * bytes_of(2 * kF, kF),
        copy_rate,
        [&](int i) { gpu::swiglu_quantize(spec, at_layer(x, i), m, kF, out, current_stream()); });
  print(fmt::format("Hadamard + quantize, {} x {}", m, kC), rows * bytes_of(kC, kC), copy_rate,
        [&](int i) { gpu::quantize(spec, at_layer(x, i), m, kC, out, current_stream()); });
}

void attention(gpu::KvFormat format, const char* name, int64_t batch, int64_t context, int layers,
               double copy_rate) {
  const gpu::KvLayout layout{format, layers, kHeads, kD};
  const int64_t pages = (context + 63) / 64;
  const at::Tensor memory = at::randint(0, 60, {batch * pages, layout.page_bytes()},
                                        on_gpu(at::kByte));  // no NaN in any format
  const at::Tensor table = at::arange(batch * pages, on_gpu(at::kLong)) * layout.page_bytes() +
                           static_cast<int64_t>(reinterpret_cast<intptr_t>(memory.data_ptr()));
  const gpu::KvCacheView cache{layout, reinterpret_cast<uint8_t* const*>(table.data_ptr()), pages};
  const at::Tensor slot = at::arange(batch, on_gpu(at::kInt));
  const at::Tensor position = at::full({batch}, context - 1, on_gpu(at::kInt));
  const at::Tensor qkv = at::randn({batch, 3 * kHeads * kD}, on_gpu(at::kFloat));
  const at::Tensor out = at::empty({batch, kHeads * kD}, qkv.options());
  const at::Tensor turns = at::randn({context, kD / 2}, qkv.options());
  const int64_t pieces = gpu::attend_pieces(context);
  const at::Tensor space =
      at::zeros({gpu::attend_split_workspace(batch, kHeads, kD, pieces)}, on_gpu(at::kByte));
  const gpu::KvRows rows{data<int32_t>(slot), data<int32_t>(position), batch};
  const gpu::SplitPlan plan{pieces, pieces == 1 ? nullptr : space.data_ptr(), batch};
  const double bytes =
      static_cast<double>(batch * context * kHeads) * static_cast<double>(layout.head_bytes()) / 64;
  print(fmt::format("attention of {} x {}, {}", batch, context, name), bytes, copy_rate,
        [&](int i) {
          gpu::attend_split(cache, i % layers, data<float>(qkv), kHeads, rows, plan,
                            data<float>(out), current_stream());
        });
  print("the same with rotary and append", bytes, copy_rate, [&](int i) {
    gpu::decode_attention(cache, i % layers, data<float>(qkv), kHeads, data<float>(turns),
                          data<float>(turns), rows, plan, {data<float>(out)}, current_stream());
  });
}

// The token of each row of logits, as of a model that is mostly sure (N(0, 3^2)).
void sampling(int64_t m, int64_t v, double copy_rate) {
  struct Way {
    const char* name;
    double temperature, top_p, min_p;
    int64_t top_k;
  };
  const at::Tensor logits = at::randn({m, v}, on_gpu(at::kFloat)) * 3;
  const at::Tensor tokens = at::empty({m}, on_gpu(at::kInt));
  for (const Way& way : {Way{"greedy", 0, 1, 0, 0},
                         {"all", 1, 1, 0, 0},
                         {"top-k 50", 1, 1, 0, 50},
                         {"top-p 0.95", 1, 0.95, 0, 0},
                         {"min-p 0.05", 1, 1, 0.05, 0},
                         {"top-k 50, top-p 0.95", 1, 0.95, 0, 50}}) {
    std::vector<kernels::cuda::SampleRow> rows(static_cast<size_t>(m));
    for (kernels::cuda::SampleRow& row : rows) {
      row.temperature = way.temperature;
      row.top_p = way.top_p;
      row.min_p = way.min_p;
      row.top_k = way.top_k;
      row.seed = static_cast<uint64_t>(&row - rows.data());
    }
    const auto bytes = static_cast<int64_t>(rows.size() * sizeof(rows[0]));
    const at::Tensor on_device = at::from_blob(rows.data(), {bytes}, at::kByte).to(at::kCUDA);
    print(fmt::format("token of {} x {}, {}", m, v, way.name), static_cast<double>(4 * m * v),
          copy_rate, [&](int) {
            kernels::cuda::sample_rows(data<float>(logits), m, v, v,
                                       data<kernels::cuda::SampleRow>(on_device),
                                       data<int32_t>(tokens), current_stream());
          });
  }
}

}  // namespace

void run_decode_kernels(double copy_rate) {
  fmt::print("\nDecode of a 7B model (C 4096, F 11008, 32 heads of 128), one of {} launches\n\n",
             kLayers);
  fmt::print("| kernel | us | rate | of the copy rate |\n|---|---|---|---|\n");
  for (const int64_t m : {1, 16}) row_kernels(recipe_from_name("w4a4").activation, m, copy_rate);
  for (const int64_t batch : {1, 32}) {
    for (const int64_t context : {256, 512, 4096}) {
      const int layers = batch * context > 32768 ? 4 : kLayers;
      attention(gpu::KvFormat::kBf16, "bf16", batch, context, layers, copy_rate);
      attention(gpu::KvFormat::kInt8, "int8", batch, context, layers, copy_rate);
    }
  }
  for (const int64_t m : {1, 32}) {
    for (const int64_t v : {32000, 128256}) sampling(m, v, copy_rate);
  }
}

}  // namespace quest::bench
