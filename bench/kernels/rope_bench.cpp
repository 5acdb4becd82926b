// rope of q inside a fused qkv matrix, single-threaded, against memcpy on the same working set.
#include "ceilings.h"
#include <string>
#include <vector>

#include "quest/kernels/rope.h"

namespace quest::bench {
namespace {

template <class T>
void rotate(benchmark::State& state, IsaLevel level, int64_t rows, int64_t heads, int64_t dim) {
  const int64_t stride = 3 * heads * dim;
  std::vector<T> qkv(static_cast<size_t>(rows * stride), T(0.5f));
  const std::vector<float> cos(static_cast<size_t>(rows * dim / 2), 0.6f), sin(cos.size(), 0.8f);
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  const double seconds = best_iteration(state, [&] {
    kernels::rope(qkv.data(), rows, stride, heads, dim, cos.data(), sin.data(), positions.data(), 1,
                  level);
  });
  report_bandwidth(state, 2 * rows * heads * dim * static_cast<int64_t>(sizeof(T)), seconds);
}

template <class T>
void register_type(const std::string& type) {
  for_each_level(IsaLevel::kAvx512, [&](IsaLevel level, const std::string& name) {
    for (const int64_t heads : {5, 16}) {
      add("rope/" + name + "/" + type + "/rows512/D128/H" + std::to_string(heads),
          [=](auto& state) { rotate<T>(state, level, 512, heads, 128); });
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
