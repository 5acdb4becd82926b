// attention forward and backward, single-threaded, packing included, against the rate of the CPU's
// BF16 instructions on registers alone, measured in this process. Counted are the products that a
// causal mask leaves: 2 of T^2 D forward, 5 backward, per head; an FP32 product counts as the six
// products of pieces that it is. Needs AMX or, for bfloat16, AVX512-BF16.
//
//   attention_bench --benchmark_filter=float/backward
#include "ceilings.h"
#include <type_traits>
#include <vector>

#include <benchmark/benchmark.h>

#include "quest/base/speed_of_light.h"
#include "quest/kernels/attention.h"

namespace quest::bench {
namespace {

struct Shape {
  int64_t batch, length, heads, kv_heads, head_dim;
};

template <class T>
std::vector<T> values_of(int64_t count) {
  const std::vector<bfloat16> values = make_values(count);
  std::vector<T> result;
  for (size_t i = 0; i < values.size(); ++i) {  // FP32: with bits in all three pieces
    const auto value = static_cast<float>(values[i]);
    const float digits = std::is_same_v<T, float> ? 1 + 0x1p-22f * static_cast<float>(i % 8191) : 1;
    result.push_back(T(value * digits));
  }
  return result;
}

template <class T>
void attention(benchmark::State& state, const Shape& s, bool backward) {
  const int64_t rows = s.batch * s.length, stride = (s.heads + 2 * s.kv_heads) * s.head_dim;
  const std::vector<T> qkv = values_of<T>(rows * stride);
  const std::vector<T> grad_out = values_of<T>(rows * s.heads * s.head_dim);
  std::vector<T> out(grad_out.size()), grad_qkv(qkv.size());
  std::vector<float> logsumexp(static_cast<size_t>(rows * s.heads));
  const kernels::Attention<T> a{s.batch,    s.length, s.heads,    s.kv_heads,      s.head_dim,
                                qkv.data(), stride,   out.data(), logsumexp.data()};
  const kernels::AttentionGrads<T> grads{grad_out.data(), grad_qkv.data()};
  const kernels::AttentionPlan plan = kernels::plan_attention(a, 1);
  const auto forward = [&] { kernels::attention_forward(a, plan, 0, plan.forward_tasks); };
  forward();
  const double best = best_iteration(state, [&] {
    if (backward) {
      kernels::attention_backward(a, grads, 0, plan.backward_tasks);
    } else {
      forward();
    }
  });
  static const double peak = measure_cpu_flops(1).flops(ComputeType::kBf16);
  // Half of 2 T^2 D in each product.
  const double rate = (backward ? 5 : 2) *
                      static_cast<double>(s.batch * s.heads * s.length * s.length * s.head_dim) /
                      best;
  state.counters["best ms"] = best * 1e3;
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["peak GFLOP/s"] = peak * 1e-9;
  const int products = std::is_same_v<T, float> ? 6 : 1;
  state.counters["%ceiling"] = 100 * products * rate / peak;
}

template <class T>
void register_type(const std::string& type, const char* needs) {
  for (const Shape& s : {Shape{4, 512, 5, 5, 128},
                         {1, 2048, 16, 16, 128},
                         {1, 2048, 16, 4, 128},
                         {4, 512, 10, 10, 64}}) {
    for (const bool backward : {false, true}) {
      const std::string name = std::string("attention/") + type +
                               (backward ? "backward" : "forward") + "/B" +
                               std::to_string(s.batch) + "/T" + std::to_string(s.length) + "/H" +
                               std::to_string(s.heads) + "/G" + std::to_string(s.kv_heads) + "/D" +
                               std::to_string(s.head_dim);
      if (kernels::attention_supports<T>(s.head_dim, highest_isa_level())) {
        add(name, [=](auto& state) { attention<T>(state, s, backward); });
      } else {
        add(name, [=](auto& state) { state.SkipWithError(needs); });
      }
    }
  }
}

void register_all() {
  register_type<bfloat16>("", "this CPU has neither AMX nor AVX512-BF16");
  register_type<float>("float/", "this CPU has no AMX");
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  return quest::bench::run(argc, argv, quest::bench::register_all);
}
