// gemm_lowbit at shapes of the 30M and 100M models' layers, single-threaded, against the integer
// peak of each level: independent multiply-adds in registers with the instructions that its kernel
// is built on, measured in this process.
//
//   gemm_lowbit_bench --benchmark_filter=avx512vnni
#include "ceilings.h"
#include <algorithm>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "quest/base/speed_of_light.h"
#include "quest/kernels/gemm_lowbit.h"
#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace quest::bench {
namespace {

constexpr int kPeakSteps = 1 << 15;

#ifdef __x86_64__
// Twelve chains hide the latency of every instruction used. The empty assembly keeps the loop.
#define QUEST_PEAK_LOOP(Vector, zero, step)                                 \
  Vector acc[12];                                                           \
  _Pragma("GCC unroll 12") for (int j = 0; j < 12; ++j) acc[j] = zero;      \
  Vector x = zero, y = zero;                                                \
  for (int i = 0; i < kPeakSteps; ++i) {                                    \
    _Pragma("GCC unroll 12") for (int j = 0; j < 12; ++j) {                 \
      asm volatile("" : "+v"(x), "+v"(y)); /* each step is computed anew */ \
      acc[j] = step;                                                        \
      asm volatile("" : "+v"(acc[j]));                                      \
    }                                                                       \
  }                                                                         \
  _Pragma("GCC unroll 12") for (int j = 0; j < 12; ++j) asm volatile("" : : "v"(acc[j]))

__attribute__((target("avx2"))) void peak_avx2_small() {
  QUEST_PEAK_LOOP(__m256i, _mm256_setzero_si256(),
                  _mm256_add_epi16(acc[j], _mm256_maddubs_epi16(x, y)));
}
__attribute__((target("avx2"))) void peak_avx2_wide() {
  QUEST_PEAK_LOOP(__m256i, _mm256_setzero_si256(),
                  _mm256_add_epi32(acc[j], _mm256_madd_epi16(x, y)));
}
__attribute__((target("avx512bw"))) void peak_avx512_small() {
  QUEST_PEAK_LOOP(__m512i, _mm512_setzero_si512(),
                  _mm512_add_epi16(acc[j], _mm512_maddubs_epi16(x, y)));
}
__attribute__((target("avx512bw"))) void peak_avx512_wide() {
  QUEST_PEAK_LOOP(__m512i, _mm512_setzero_si512(),
                  _mm512_add_epi32(acc[j], _mm512_madd_epi16(x, y)));
}
__attribute__((target("avx512f,avx512vnni"))) void peak_vnni() {
  QUEST_PEAK_LOOP(__m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(acc[j], x, y));
}
#undef QUEST_PEAK_LOOP

// Multiplications plus additions per second. `products` of them in one instruction.
double measure_peak(void (*loop)(), int products) {
  return 2.0 * products * 12 * kPeakSteps / best_seconds(loop, 20);
}
#endif

// 0 for scalar code, which has no meaningful peak.
double integer_peak([[maybe_unused]] IsaLevel level, [[maybe_unused]] bool small_numbers) {
#ifdef __x86_64__
  switch (level) {
    case IsaLevel::kAvx2:
      return small_numbers ? measure_peak(peak_avx2_small, 32) : measure_peak(peak_avx2_wide, 16);
    case IsaLevel::kAvx512:
      return small_numbers ? measure_peak(peak_avx512_small, 64)
                           : measure_peak(peak_avx512_wide, 32);
    case IsaLevel::kAvx512Vnni:
      return measure_peak(peak_vnni, 64);
    case IsaLevel::kAmx:
      return measure_cpu_ceilings(1).flops(ComputeType::kInt8);
    default:
      return 0;
  }
#else
  return 0;
#endif
}

CodeFormat format_of_bits(int bits) {
  CodeFormat format;
  format.multiplier = bits == 8 ? 2 : 1;
  format.offset = bits == 8 ? 1 : 0;
  format.max_number = (1 << bits) - 1;
  return format;
}

std::vector<int8_t> make_codes(int bits, int64_t count) {
  const int levels = 1 << bits;
  std::vector<int8_t> codes(static_cast<size_t>(count));
  uint32_t state = 1;
  for (int8_t& code : codes) {
    state = state * 1664525u + 1013904223u;
    const int u = static_cast<int>(state >> 8) % levels - levels / 2;
    code = static_cast<int8_t>(bits == 8 ? u : 2 * u + 1);
  }
  return codes;
}

void gemm(benchmark::State& state, IsaLevel level, int bits, int64_t m, int64_t n, int64_t k) {
  const CodeFormat format = format_of_bits(bits);
  const std::vector<int8_t> a = make_codes(bits, m * k), w = make_codes(bits, n * k);
  const std::vector<float> a_units(static_cast<size_t>(m), 0.01f);
  const std::vector<float> w_units(static_cast<size_t>(n), 0.02f);
  const kernels::PackedCodes packed = kernels::pack_codes(format, w.data(), n, k, level);
  std::vector<bfloat16> out(static_cast<size_t>(m * n));
  const double best = best_iteration(state, [&] {
    kernels::gemm_lowbit(format, a.data(), a_units.data(), 0, m, packed, w_units.data(), 0, n,
                         out.data(), n);
  });
  const double rate = 2.0 * static_cast<double>(m * n * k) / best;
  const double peak = integer_peak(level, bits <= 4);
  state.counters["GOP/s"] = rate * 1e-9;
  state.counters["peak GOP/s"] = peak * 1e-9;
  if (peak > 0) state.counters["%ceiling"] = 100 * rate / peak;
}

void pack(benchmark::State& state, IsaLevel level, int64_t n, int64_t k) {
  const std::vector<int8_t> w = make_codes(4, n * k);
  const double best = best_iteration(state, [&] {
    benchmark::DoNotOptimize(kernels::pack_codes(format_of_bits(4), w.data(), n, k, level));
  });
  report_bandwidth(state, 2 * n * k, best);
}

void register_all() {
  struct Shape {
    int64_t m, n, k;
  };
  const Shape shapes[] = {{2048, 1920, 640},
                          {2048, 640, 1792},
                          {2048, 2048, 2048},
                          {2048, 5632, 2048},
                          {1, 2048, 2048}};
  for_each_level(IsaLevel::kAmx, [&](IsaLevel level, const std::string& name) {
    for (const Shape& s : shapes) {
      if (level == IsaLevel::kScalar && s.m * s.n * s.k > (int64_t{1} << 22)) continue;
      for (const int bits : {4, 8}) {
        const std::string shape =
            "/M" + std::to_string(s.m) + "/N" + std::to_string(s.n) + "/K" + std::to_string(s.k);
        add("gemm_lowbit/" + name + "/" + std::to_string(bits) + "bit" + shape,
            [=](auto& state) { gemm(state, level, bits, s.m, s.n, s.k); });
      }
    }
    add("pack_codes/" + name + "/N2048/K2048",
        [=](auto& state) { pack(state, level, 2048, 2048); });
  });
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  return quest::bench::run(argc, argv, quest::bench::register_all);
}
