// gemm_bf16 at the products of a training step of the 30M model (2048 tokens), single-threaded,
// packing included, against the rate of the same instructions on registers alone, measured in this
// process. Needs AMX.
//
//   gemm_bf16_bench --benchmark_filter=weight_gradient
#include "ceilings.h"
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>

#include "quest/base/speed_of_light.h"
#include "quest/kernels/gemm_bf16.h"

namespace quest::bench {
namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

void gemm(benchmark::State& state, int64_t m, int64_t n, int64_t k, bool a_transposed,
          bool b_transposed, bool out_is_bfloat16) {
  const std::vector<bfloat16> a = make_values(m * k), b = make_values(k * n);
  std::vector<float> out(static_cast<size_t>(m * n));
  kernels::GemmBf16 product;
  using kernels::GemmOperand;
  product.a = a_transposed ? GemmOperand{a.data(), 1, m} : GemmOperand{a.data(), k, 1};
  product.b = b_transposed ? GemmOperand{b.data(), 1, k} : GemmOperand{b.data(), n, 1};
  product.m = m;
  product.n = n;
  product.k = k;
  product.out = out.data();
  product.ldo = n;
  product.out_is_bfloat16 = out_is_bfloat16;
  const kernels::GemmBf16Plan plan = kernels::plan_gemm_bf16(product, 1);
  const std::unique_ptr<void, Free> memory(std::aligned_alloc(
      64, static_cast<size_t>(plan.shared_panels * plan.panel_elements) * sizeof(bfloat16)));
  auto* shared = static_cast<bfloat16*>(memory.get());
  const double best = best_iteration(state, [&] {
    kernels::gemm_bf16_pack(product, plan, 0, plan.shared_panels, shared);
    kernels::gemm_bf16_run(product, plan, shared, 0, plan.tasks);
  });
  static const double peak = measure_cpu_flops(1).flops(ComputeType::kBf16);
  const double rate = 2.0 * static_cast<double>(m * n * k) / best;
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["peak GFLOP/s"] = peak * 1e-9;
  state.counters["%ceiling"] = 100 * rate / peak;
}

void register_all() {
  if (!kernels::gemm_bf16_supports(highest_isa_level())) {
    add("gemm_bf16", [](auto& state) { state.SkipWithError("this CPU has no AMX"); });
    return;
  }
  struct Layer {
    int64_t in, out;
  };
  for (const Layer& l : {Layer{640, 1920}, {640, 640}, {640, 3584}, {1792, 640}, {640, 32000}}) {
    const int64_t tokens = l.out == 32000 ? 1024 : 2048;
    const std::string shape = "/T" + std::to_string(tokens) + "/in" + std::to_string(l.in) +
                              "/out" + std::to_string(l.out);
    if (l.in <= kernels::kMaxGemmBf16Depth) {
      add("gemm_bf16/forward" + shape,
          [=](auto& state) { gemm(state, tokens, l.out, l.in, false, true, true); });
    }
    if (l.out <= kernels::kMaxGemmBf16Depth) {
      add("gemm_bf16/input_gradient" + shape,
          [=](auto& state) { gemm(state, tokens, l.in, l.out, false, false, true); });
    }
    add("gemm_bf16/weight_gradient" + shape,
        [=](auto& state) { gemm(state, l.out, l.in, tokens, true, false, false); });
  }
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  return quest::bench::run(argc, argv, quest::bench::register_all);
}
