// Speed of the fused quantizer and its backward at every level, beside memcpy over the same bytes.
//
//   hadamard_quantize_bench --benchmark_min_time=0.2
//
// Counters: GB/s of bytes read and written (best iteration, processor time of one thread), and the
// same of memcpy over a working set of that size.
#include "bench/kernels/ceilings.h"
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "quest/base/philox.h"
#include "quest/kernels/hadamard_quantize.h"

namespace {

using quest::bfloat16;
using quest::IsaLevel;
using quest::QuantSpec;

struct Shape {
  int64_t m, k;
};
// Activations of a 30M model (4 x 512 tokens), and a weight matrix of an 800M model.
constexpr Shape kShapes[] = {{2048, 640}, {2048, 1792}, {2048, 2048}};
constexpr const char* kSpecs[] = {"int4.hadamard.trust",      "int1.hadamard.clip1.3",
                                  "int8.hadamard.trust",      "fp4.hadamard.trust",
                                  "int4_4of8.hadamard.trust", "int4.trust"};

template <class T>
std::vector<T> gaussian(int64_t n) {
  const quest::Philox random(1);
  std::vector<T> x;
  x.reserve(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    x.push_back(T(static_cast<float>(random.normal(static_cast<uint64_t>(i)))));
  return x;
}

template <class T>
void forward(benchmark::State& state, const QuantSpec& spec, Shape shape, IsaLevel level) {
  const auto [m, k] = shape;
  const std::vector<T> x = gaussian<T>(m * k);
  std::vector<int8_t> codes(x.size());
  std::vector<float> units(static_cast<size_t>(m));
  std::vector<uint8_t> mask(x.size() / 8);
  const double seconds = quest::bench::best_iteration(state, [&] {
    quest::kernels::hadamard_quantize(spec, x.data(), m, k, codes.data(), units.data(), mask.data(),
                                      level);
    benchmark::DoNotOptimize(codes.data());
  });
  const auto bytes = static_cast<int64_t>(sizeof(T) + 1) * m * k + m * k / 8 + 4 * m;
  quest::bench::report_bandwidth(state, bytes, seconds);
}

template <class T>
void backward(benchmark::State& state, Shape shape, IsaLevel level) {
  const auto [m, k] = shape;
  std::vector<T> grad = gaussian<T>(m * k);
  std::vector<T> out(grad.size());
  const std::vector<uint8_t> mask(grad.size() / 8, 0xB7);
  const QuantSpec spec = quest::spec_from_string("int4.hadamard.trust");
  const double seconds = quest::bench::best_iteration(state, [&] {
    quest::kernels::mask_hadamard(spec, grad.data(), mask.data(), m, k, out.data(), level);
    benchmark::DoNotOptimize(out.data());
  });
  const auto bytes = static_cast<int64_t>(2 * sizeof(T)) * m * k + m * k / 8;
  quest::bench::report_bandwidth(state, bytes, seconds);
}

template <class T>
void dequantize(benchmark::State& state, const QuantSpec& spec, Shape shape, IsaLevel level) {
  const auto [m, k] = shape;
  const std::vector<int8_t> codes(static_cast<size_t>(m * k), 1);
  const std::vector<float> units(static_cast<size_t>(m), 0.1f);
  std::vector<T> out(codes.size());
  const double seconds = quest::bench::best_iteration(state, [&] {
    quest::kernels::dequantize_rows(spec, codes.data(), units.data(), m, k, out.data(), level);
    benchmark::DoNotOptimize(out.data());
  });
  const auto bytes = static_cast<int64_t>(sizeof(T) + 1) * m * k;
  quest::bench::report_bandwidth(state, bytes, seconds);
}

template <class T>
void add_type(const std::string& type, const std::string& level_name, IsaLevel level) {
  const std::string suffix = "/" + type + "/" + level_name;
  for (const Shape shape : kShapes) {
    const std::string size = fmt::format("/{}x{}", shape.m, shape.k);
    for (const char* text : kSpecs) {
      const QuantSpec spec = quest::spec_from_string(text);
      quest::bench::add("forward/" + std::string(text) + size + suffix,
                        [=](benchmark::State& s) { forward<T>(s, spec, shape, level); });
    }
    quest::bench::add("backward" + size + suffix,
                      [=](benchmark::State& s) { backward<T>(s, shape, level); });
    const QuantSpec spec = quest::spec_from_string("int4.hadamard.trust");
    quest::bench::add("dequantize" + size + suffix,
                      [=](benchmark::State& s) { dequantize<T>(s, spec, shape, level); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  return quest::bench::run(argc, argv, [] {
    quest::bench::for_each_level(IsaLevel::kAvx512, [](IsaLevel level, const std::string& name) {
      add_type<float>("float", name, level);
      add_type<bfloat16>("bfloat16", name, level);
    });
  });
}
