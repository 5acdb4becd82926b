// The GPU's products of deployment (quest/kernels/cuda/packed_gemm.h, table_gemm.h) at the shapes
// of a 7B model, beside a copy of 1 GiB and BF16 products measured in the same run.
//
// Operations run in a CUDA graph, each on other weights than the ones before it, so that all come
// from memory and launches overlap as they do in a step.
//
//   packed_gpu
//   packed_gpu --bits 2,4 --rows 1,16
//   packed_gpu --chain --bits 4,2,1 --keys 512   # a layer as decode runs it, and its parts
#include "bench/gpu_graph_time.h"
#include "bench/packed_gpu/chain.h"
#include <algorithm>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <CLI/CLI.hpp>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "quest/base/error.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/cuda/table_gemm.h"
#include "quest/kernels/lane_order.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/train/gpu_step.h"

namespace quest::bench {
namespace {

namespace gpu = kernels::cuda;
using ops::current_stream;
using ops::data;

constexpr double kCacheBytes = 300e6;  // several times the L2 cache

// How many copies of so many bytes are never found in the cache.
int64_t copies_of(double bytes) {
  return std::max<int64_t>(2, static_cast<int64_t>(kCacheBytes / bytes) + 1);
}

struct Shape {
  int64_t n, k;
};
const std::vector<Shape> kShapes = {{12288, 4096}, {4096, 4096}, {22016, 4096}, {4096, 11008}};

class Bench {
 public:
  Bench() {
    const at::Tensor a = at::zeros({int64_t{1} << 28}, on_gpu(at::kFloat));
    const at::Tensor b = at::empty_like(a);
    const double time = microseconds(2, [&](int64_t) { b.copy_(a); });
    copy_rate_ = 2.0 * static_cast<double>(a.nbytes()) / time * 1e-6;
    fmt::print("{}; copy {:.2f} TB/s\n\n", ops::gpu_description(), copy_rate_);
  }

  void products(const std::vector<int>& bits, const std::vector<int64_t>& rows) {
    fmt::print(
        "| product | rows | us | TB/s | of the ceiling | BF16 us | times BF16 |\n"
        "|---|---|---|---|---|---|---|\n");
    for (const Shape shape : kShapes) {
      for (const int64_t m : rows) {
        const double bf16 = bf16_product(shape, m);
        for (const int b : bits) product(shape, m, fmt::format("int{}.ste", b), bf16);
      }
    }
    for (const char* format : {"fp4.ste", "ternary.ste"}) {
      product(kShapes[0], 1, format, bf16_product(kShapes[0], 1));
    }
  }

  void unpacking(const std::vector<int>& bits) {
    fmt::print("\n| unpacking 22016 x 4096 | us | TB/s | of the ceiling |\n|---|---|---|---|\n");
    for (const int b : bits) {
      const Shape shape = kShapes[2];
      const QuantSpec spec = spec_from_string(fmt::format("int{}.ste", b));
      const Weights w(spec, shape);
      const double packed = w.bytes(), size = static_cast<double>(shape.n * shape.k);
      const at::Tensor numbers = at::empty({shape.n, shape.k}, on_gpu(at::kChar));
      const at::Tensor values = at::empty({shape.n, shape.k}, on_gpu(at::kBFloat16));
      if (gpu::unpack_numbers_supports(spec)) {
        row(fmt::format("{} bits to int8", b), packed + size,
            microseconds(w.count(), [&](int64_t i) {
              gpu::unpack_numbers(w.view(i), data<int8_t>(numbers), current_stream());
            }));
      }
      row(fmt::format("{} bits to BF16", b), packed + 2 * size,
          microseconds(w.count(), [&](int64_t i) {
            gpu::unpack_values<bfloat16>(w.view(i), data<bfloat16>(values), current_stream());
          }));
    }
  }

  void tables(const std::vector<int64_t>& rows) {
    constexpr int64_t kV = 32000, kC = 4096;
    fmt::print("\n| head 32000 x 4096 | us | TB/s | of the ceiling |\n|---|---|---|---|\n");
    for (const auto& [form, name, bytes] :
         {std::tuple{kernels::TableForm::kInt8, "int8", 1.0 * kV * kC},
          {kernels::TableForm::kInt4, "int4", (0.5 + 2.0 / 32) * kV * kC},
          {kernels::TableForm::kBf16, "bf16", 2.0 * kV * kC}}) {
      std::vector<at::Tensor> copies;
      for (int64_t i = 0; i < copies_of(bytes); ++i) {
        copies.push_back(form == kernels::TableForm::kBf16
                             ? at::randn({kV, kC}, on_gpu(at::kFloat)).to(at::kBFloat16)
                             : at::randint(0, 256, {kV * kC}, on_gpu(at::kByte)));
      }
      const at::Tensor units = at::rand({kV}, on_gpu(at::kFloat));
      const at::Tensor groups =
          at::rand({kernels::lane_unit_count(kV, kC)}, units.options()).to(at::kBFloat16);
      for (const int64_t m : rows) {
        const at::Tensor x = at::randn({m, kC}, units.options()),
                         y = at::empty({m, kV}, x.options());
        gpu::DeviceTable table{form, kV, kC, nullptr, data<float>(units), data<bfloat16>(groups)};
        const at::Tensor space =
            at::empty({gpu::table_workspace_bytes(table, m)}, on_gpu(at::kByte));
        const auto count = static_cast<int64_t>(copies.size());
        row(fmt::format("{}, {} rows", name, m), bytes, microseconds(count, [&](int64_t i) {
              table.weight = copies[static_cast<size_t>(i)].data_ptr();
              gpu::table_gemm(table, data<float>(x), kC, m, space.data_ptr(), data<float>(y), kV,
                              current_stream());
            }));
      }
    }
    for (const int64_t m : rows) {
      const at::Tensor y = at::randn({m, kV}, on_gpu(at::kFloat));
      const at::Tensor next = at::empty({m}, on_gpu(at::kInt));
      row(fmt::format("argmax, {} rows", m), static_cast<double>(y.nbytes()),
          microseconds(20, [&](int64_t) {
            gpu::argmax_rows(data<float>(y), m, kV, kV, data<int32_t>(next), current_stream());
          }));
    }
  }

 private:
  // Copies of a weight of random bytes.
  struct Weights {
    Weights(const QuantSpec& s, Shape shape_of) : spec(s), shape(shape_of) {
      size = kernels::lane_bytes({.bits = spec.bits, .n = shape.n, .k = shape.k});
      for (int64_t i = 0; i < copies_of(bytes()); ++i) {
        lanes.push_back(at::randint(0, 256, {size}, on_gpu(at::kByte)));
      }
      units = at::rand({shape.n}, on_gpu(at::kFloat));
      sums = at::zeros({shape.n}, on_gpu(at::kInt));
    }
    double bytes() const { return static_cast<double>(size); }
    int64_t count() const { return static_cast<int64_t>(lanes.size()); }
    gpu::DeviceWeight view(int64_t i) const {
      gpu::DeviceWeight w;
      w.spec = spec;
      w.n = shape.n;
      w.k = shape.k;
      w.lanes = lanes[static_cast<size_t>(i)].data_ptr();
      w.units = data<float>(units);
      w.number_sums = data<int32_t>(sums);
      return w;
    }
    QuantSpec spec;
    Shape shape;
    int64_t size;
    std::vector<at::Tensor> lanes;
    at::Tensor units, sums;
  };

  double bf16_product(Shape shape, int64_t m) const {
    const auto bytes = static_cast<double>(2 * shape.n * shape.k);
    std::vector<at::Tensor> copies;
    for (int64_t i = 0; i < copies_of(bytes); ++i) {
      copies.push_back(at::randn({shape.n, shape.k}, on_gpu(at::kFloat)).to(at::kBFloat16));
    }
    const at::Tensor x = at::randn({m, shape.k}, on_gpu(at::kFloat)).to(at::kBFloat16);
    at::Tensor y = at::empty({m, shape.n}, x.options());
    return microseconds(static_cast<int64_t>(copies.size()),
                        [&](int64_t i) { at::mm_out(y, x, copies[static_cast<size_t>(i)].t()); });
  }

  // Activations of the weight's format.
  void product(Shape shape, int64_t m, const std::string& format, double bf16) const {
    const QuantSpec spec = spec_from_string(format);
    const Weights w(spec, shape);
    const at::Tensor codes = 2 * at::randint(0, 2, {m, shape.k}, on_gpu(at::kChar)) - 1;
    const at::Tensor units = at::rand({m}, on_gpu(at::kFloat));
    const at::Tensor y = at::empty({m, shape.n}, on_gpu(at::kFloat));
    const double time = microseconds(w.count(), [&](int64_t i) {
      gpu::packed_gemm<float>(w.view(i), spec, data<int8_t>(codes), data<float>(units), m,
                              data<float>(y), current_stream());
    });
    const double rate = w.bytes() / time * 1e-6;
    fmt::print("| {} {} x {} | {} | {:.2f} | {:.2f} | {:.0f} % | {:.2f} | {:.1f} |\n", format,
               shape.k, shape.n, m, time, rate, 100 * rate / copy_rate_, bf16, bf16 / time);
  }

  void row(const std::string& name, double bytes, double time) const {
    const double rate = bytes / time * 1e-6;
    fmt::print("| {} | {:.2f} | {:.2f} | {:.0f} % |\n", name, time, rate, 100 * rate / copy_rate_);
  }

  double copy_rate_ = 0;
};

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  CLI::App app("The GPU's products of deployment at the shapes of a 7B model");
  std::vector<int> bits = {1, 2, 4};
  std::vector<int64_t> rows = {1, 8, 16, 64};
  app.add_option("--bits", bits, "bits of weights and activations")
      ->delimiter(',')
      ->check(CLI::Range(1, 8));
  app.add_option("--rows", rows, "rows of activations")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, quest::kernels::cuda::kMaxPackedRows));
  bool chain = false;
  int64_t keys = 512;
  app.add_flag("--chain", chain, "time a whole layer and its parts");
  app.add_option("--keys", keys, "positions that its attention reads")
      ->check(CLI::Range(1, 1 << 16));
  CLI11_PARSE(app, argc, argv);
  try {
    quest::train::prepare_gpu(false);
    // Not the default stream, which cannot be recorded.
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
    if (chain) {
      for (const int64_t m : rows) quest::bench::measure_chain(bits, m, keys);
      return 0;
    }
    quest::bench::Bench bench;
    bench.products(bits, rows);
    bench.unpacking(bits);
    bench.tables(rows);
  } catch (const std::exception& error) {
    fmt::print(stderr, "packed_gpu: {}\n", error.what());
    return 1;
  }
  return 0;
}
