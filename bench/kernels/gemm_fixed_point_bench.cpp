// gemm_fixed_point at the products of a training step of the 30M model (2048 tokens),
// single-threaded, packing included, against the rate of int8 tile products on registers alone,
// measured in this process. Needs AMX.
//
//   gemm_fixed_point_bench --benchmark_filter=weight_gradient
#include "ceilings.h"
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>

#include "quest/base/speed_of_light.h"
#include "quest/kernels/gemm_fixed_point.h"

namespace quest::bench {
namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

std::vector<float> operand_values(int64_t count) {
  const std::vector<bfloat16> values = make_values(count);
  return {values.begin(), values.end()};
}

// Percent of the ceiling: of the six int8 products, with codes three, that one FP32 product is.
void gemm(benchmark::State& state, int64_t m, int64_t n, int64_t k, bool a_transposed,
          bool b_transposed, bool has_codes) {
  const auto a = operand_values(m * k), b = operand_values(k * n);
  const std::vector<int8_t> codes(static_cast<size_t>(k * n), int8_t{5});
  std::vector<float> out(static_cast<size_t>(m * n));
  kernels::GemmFixedPoint product;
  product.a = {a.data(), a_transposed ? 1 : k, a_transposed ? m : 1};
  if (has_codes) {
    product.codes = codes.data();
    product.codes_stride = n;
  } else {
    product.b = {b.data(), b_transposed ? 1 : n, b_transposed ? k : 1};
  }
  product.m = m;
  product.n = n;
  product.k = k;
  product.out = out.data();
  product.ldo = n;
  const kernels::GemmFixedPointPlan plan = kernels::plan_gemm_fixed_point(product, 1);
  const std::unique_ptr<void, Free> memory(
      std::aligned_alloc(64, static_cast<size_t>(plan.shared_panels * plan.shared_panel_bytes)));
  auto* shared = static_cast<int8_t*>(memory.get());
  const double best = best_iteration(state, [&] {
    kernels::gemm_fixed_point_pack(product, plan, 0, plan.shared_panels, shared);
    kernels::gemm_fixed_point_run(product, plan, shared, 0, plan.tasks);
  });
  static const double peak = measure_cpu_flops(1).flops(ComputeType::kInt8);
  const double rate = 2.0 * static_cast<double>(m * n * k) / best;
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["peak GOP/s"] = peak * 1e-9;
  state.counters["%ceiling"] = 100 * (has_codes ? 3 : 6) * rate / peak;
}

void register_all() {
  if (!kernels::gemm_fixed_point_supports(highest_isa_level())) {
    add("gemm_fixed_point", [](auto& state) { state.SkipWithError("this CPU has no AMX"); });
    return;
  }
  struct Layer {
    int64_t in, out;
  };
  constexpr int64_t kMost = kernels::kMaxFixedPointDepth;
  for (const Layer& l : {Layer{640, 1920}, {640, 640}, {640, 3584}, {1792, 640}, {640, 32000}}) {
    const int64_t tokens = l.out == 32000 ? 1024 : 2048;
    const std::string shape = "/T" + std::to_string(tokens) + "/in" + std::to_string(l.in) +
                              "/out" + std::to_string(l.out);
    // Sums longer than kMost are taken in parts: one part.
    if (l.in <= kMost) {
      add("gemm_fixed_point/forward" + shape,
          [=](auto& state) { gemm(state, tokens, l.out, l.in, false, true, false); });
    }
    for (const bool has_codes : {false, true}) {
      const std::string name = std::string("gemm_fixed_point") + (has_codes ? "/codes" : "");
      add(name + "/input_gradient" + shape, [=](auto& state) {
        gemm(state, tokens, l.in, std::min(l.out, kMost), false, false, has_codes);
      });
      add(name + "/weight_gradient" + shape, [=](auto& state) {
        gemm(state, l.out, l.in, std::min(tokens, kMost), true, false, has_codes);
      });
    }
  }
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  return quest::bench::run(argc, argv, quest::bench::register_all);
}
