// rms_norm forward and backward, single-threaded, against memcpy on the same working set.
#include "ceilings.h"
#include <string>
#include <vector>

#include "quest/kernels/rms_norm.h"

namespace quest::bench {
namespace {

template <class T>
void forward(benchmark::State& state, IsaLevel level, int64_t m, int64_t c) {
  const std::vector<T> x(static_cast<size_t>(m * c), T(0.5f));
  const std::vector<float> weight(static_cast<size_t>(c), 1.0f);
  std::vector<T> y(x.size());
  std::vector<float> inverse(static_cast<size_t>(m));
  const double seconds = best_iteration(state, [&] {
    kernels::rms_norm(x.data(), weight.data(), m, c, 1e-5f, y.data(), inverse.data(), level);
  });
  report_bandwidth(state, 2 * m * c * static_cast<int64_t>(sizeof(T)), seconds);
}

template <class T>
void backward(benchmark::State& state, IsaLevel level, int64_t m, int64_t c) {
  const std::vector<T> x(static_cast<size_t>(m * c), T(0.5f)), grad_y(x.size(), T(0.25f));
  const std::vector<float> weight(static_cast<size_t>(c), 1.0f);
  const std::vector<float> inverse(static_cast<size_t>(m), 2.0f);
  std::vector<T> grad_x(x.size());
  std::vector<float> grad_weight(weight.size());
  const double seconds = best_iteration(state, [&] {
    kernels::rms_norm_backward<T>(grad_y.data(), x.data(), weight.data(), inverse.data(), nullptr,
                                  m, c, grad_x.data(), grad_weight.data(), level);
  });
  report_bandwidth(state, 3 * m * c * static_cast<int64_t>(sizeof(T)), seconds);
}

template <class T>
void register_type(const std::string& type) {
  for_each_level(IsaLevel::kAvx512, [&](IsaLevel level, const std::string& name) {
    for (const int64_t c : {640, 2048}) {
      const std::string suffix = "/" + name + "/" + type + "/M2048/C" + std::to_string(c);
      add("rms_norm" + suffix, [=](auto& state) { forward<T>(state, level, 2048, c); });
      add("rms_norm_backward" + suffix, [=](auto& state) { backward<T>(state, level, 2048, c); });
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
