// cross_entropy, loss alone and with the gradient in place, single-threaded, against memcpy on the
// same working set. Its exponentials (two for each logit with the gradient) are what it waits for,
// not memory.
#include "ceilings.h"
#include <string>
#include <vector>

#include "quest/kernels/cross_entropy.h"

namespace quest::bench {
namespace {

template <class T>
void loss(benchmark::State& state, IsaLevel level, int64_t m, int64_t v, float grad_scale) {
  std::vector<T> logits(static_cast<size_t>(m * v));
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = T(static_cast<float>(i * 7919 % 1000) * 0.004f - 2.0f);
  }
  const std::vector<int64_t> targets(static_cast<size_t>(m), v / 2);
  std::vector<float> losses(static_cast<size_t>(m));
  const double seconds = best_iteration(state, [&] {
    kernels::cross_entropy(logits.data(), targets.data(), m, v, grad_scale, losses.data(), level);
  });
  const int64_t touched = grad_scale == 0.0f ? 1 : 2;
  report_bandwidth(state, touched * m * v * static_cast<int64_t>(sizeof(T)), seconds);
  state.counters["logits/s"] = static_cast<double>(m * v) / seconds;
}

template <class T>
void register_type(const std::string& type) {
  for_each_level(IsaLevel::kAvx512, [&](IsaLevel level, const std::string& name) {
    const std::string suffix = "/" + name + "/" + type + "/M64/V32000";
    add("cross_entropy_loss" + suffix, [=](auto& s) { loss<T>(s, level, 64, 32000, 0.0f); });
    add("cross_entropy_gradient" + suffix, [=](auto& s) { loss<T>(s, level, 64, 32000, 1.0f); });
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
