// swiglu forward and backward, single-threaded, against memcpy on the same working set.
#include "ceilings.h"
#include <string>
#include <vector>

#include "quest/kernels/swiglu.h"

namespace quest::bench {
namespace {

template <class T>
void forward(benchmark::State& state, IsaLevel level, int64_t m, int64_t f) {
  const std::vector<T> gate_up(static_cast<size_t>(2 * m * f), T(0.5f));
  std::vector<T> y(static_cast<size_t>(m * f));
  const double seconds =
      best_iteration(state, [&] { kernels::swiglu(gate_up.data(), m, f, y.data(), level); });
  report_bandwidth(state, 3 * m * f * static_cast<int64_t>(sizeof(T)), seconds);
}

template <class T>
void backward(benchmark::State& state, IsaLevel level, int64_t m, int64_t f) {
  const std::vector<T> gate_up(static_cast<size_t>(2 * m * f), T(0.5f));
  const std::vector<T> grad_y(static_cast<size_t>(m * f), T(0.25f));
  std::vector<T> grad(gate_up.size());
  const double seconds = best_iteration(state, [&] {
    kernels::swiglu_backward(grad_y.data(), gate_up.data(), m, f, grad.data(), level);
  });
  report_bandwidth(state, 5 * m * f * static_cast<int64_t>(sizeof(T)), seconds);
}

template <class T>
void register_type(const std::string& type) {
  for_each_level(IsaLevel::kAvx512, [&](IsaLevel level, const std::string& name) {
    for (const int64_t f : {1792, 5632}) {
      const std::string suffix = "/" + name + "/" + type + "/M512/F" + std::to_string(f);
      add("swiglu" + suffix, [=](auto& state) { forward<T>(state, level, 512, f); });
      add("swiglu_backward" + suffix, [=](auto& state) { backward<T>(state, level, 512, f); });
    }
  });
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  return quest::bench::run(argc, argv, [] {
    quest::bench::register_type<float>("f32");
    quest::bench::register_type<quest::bfloat16>("bf16");
  });
}
