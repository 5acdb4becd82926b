// packed_gemm and packed_gemm_float at the layer shapes of the 800M model, by one thread and by
// two.
//
// M = 1: bytes of packed weights per second, and the percentage of what the same threads read from
// memory with two streams and software prefetch. The weights are copies that together do not fit
// into the last-level cache, used in turn. M = 512: multiplications plus additions per second, and
// the percentage of the integer peak of the level's instructions (base/speed_of_light.h).
//
//   packed_gemm_bench --benchmark_filter='avx512vnni/w4a4/M1/'
//   packed_gemm_bench --benchmark_filter='/M512/.*threads2'
#include "ceilings.h"
#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

#include "quest/base/speed_of_light.h"
#include "quest/base/thread_pool.h"
#include "quest/kernels/packed_gemm.h"
#include "quest/kernels/packed_gemm_testing.h"

namespace quest::bench {
namespace {

using kernels::PackedPlan;
using kernels::PackedWeight;
using testing::AlignedBytes;

constexpr int64_t kBeyondCache = int64_t{256} << 20;  // bytes

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Best time of one call: of one thread its processor time, of several by wall clock.
double best_time(benchmark::State& state, int threads, const std::function<void()>& work) {
  if (threads == 1) return best_iteration(state, work);
  double best = 1e30;
  for (auto _ : state) {
    const double start = now();
    work();
    benchmark::ClobberMemory();
    best = std::min(best, now() - start);
  }
  return best;
}

// Each thread adds up its part of the array as two streams of lines, with prefetch.
uint64_t read_part(const uint8_t* begin, int64_t bytes) {
  const int64_t half = bytes / 2 / 64 * 64;
  uint64_t sums[16] = {};
  for (int64_t i = 0; i < half; i += 64) {
    for (const uint8_t* p : {begin + i, begin + half + i}) {
      __builtin_prefetch(p + 1024);
      uint64_t line[8];
      std::memcpy(line, p, 64);
      for (int j = 0; j < 8; ++j) sums[j] += line[j];
    }
  }
  uint64_t sum = 0;
  for (const uint64_t s : sums) sum += s;
  return sum;
}

// Bytes per second; measured once for each number of threads.
double read_ceiling(int threads) {
  static double rates[8] = {};
  double& rate = rates[threads];
  if (rate > 0) return rate;
  const AlignedBytes bytes(kBeyondCache);
  std::memset(bytes.data(), 1, kBeyondCache);
  ThreadPool pool(threads);
  const int64_t part = kBeyondCache / threads;
  for (int run = 0; run < 20; ++run) {
    const double start = now();
    pool.parallel_for(threads, [&](int64_t i) {
      benchmark::DoNotOptimize(read_part(bytes.data() + i * part, part));
    });
    rate = std::max(rate, static_cast<double>(kBeyondCache) / (now() - start));
  }
  return rate;
}

// One packed matrix of random bytes (the kernels take any) and as many
// copies as memory needs to be out of the cache.
struct Weights {
  Weights(const QuantSpec& spec, int64_t n, int64_t k, bool beyond_cache) {
    view.spec = spec;
    view.tiles = {.bits = spec.bits, .n = n, .k = k};
    view.n = n;
    view.k = k;
    int64_t pair_bytes = 0;
    if (spec.grid == Grid::kUniform4of8) {
      const SparseTiles sparse = sparse_tiles(n, k);
      view.tiles = sparse.kept;
      pair_bytes = sparse.pairs.bytes();
    }
    kept_bytes = view.tiles.bytes();
    size = kept_bytes + pair_bytes;
    copies = beyond_cache ? std::max<int64_t>(1, kBeyondCache / size) : 1;
    bytes = AlignedBytes(copies * size);
    uint64_t state = 1;
    for (int64_t i = 0; i < copies * size; i += 8) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const uint64_t mixed = state ^ (state >> 29);
      std::memcpy(bytes.data() + i, &mixed, 8);
    }
    units.resize(static_cast<size_t>(n), 0.01f);
    sums.resize(static_cast<size_t>(n), 1);
    view.units = units.data();
    view.value_sums = sums.data();
  }
  PackedWeight copy(int64_t i) const {
    PackedWeight w = view;
    w.bytes = bytes.data() + i % copies * size;
    w.pairs = w.bytes + kept_bytes;
    return w;
  }

  PackedWeight view;
  int64_t size = 0, kept_bytes = 0;  // of one copy
  int64_t copies = 1;
  AlignedBytes bytes;
  std::vector<float> units;
  std::vector<int32_t> sums;
};

struct Case {
  const char *w, *a;  // specs; "none": FP32 activations
  int64_t m, n, k;
  int threads;
  bool in_cache = false;
};

void run_case(benchmark::State& state, IsaLevel level, const Case& c) {
  const Weights weights(spec_from_string(c.w), c.n, c.k, c.m <= 8 && !c.in_cache);
  const QuantSpec activation = spec_from_string(c.a);
  const PackedPlan plan =
      kernels::choose_packed_plan(weights.view.spec, activation, c.m, c.k, level);
  std::mt19937 random(1);
  AlignedBytes prepared;
  std::vector<float> x, a_units(static_cast<size_t>(c.m), 0.01f);
  if (!activation.is_quantized()) {
    x.resize(static_cast<size_t>(c.m * c.k), 0.5f);
  } else {
    const std::vector<int8_t> codes = testing::random_codes(activation, c.m, c.k, random);
    prepared = AlignedBytes(kernels::activation_bytes(plan, c.m, c.k));
    kernels::prepare_activations(plan, codes.data(), c.m, c.k, prepared.data());
  }
  std::vector<float> out(static_cast<size_t>(c.m * c.n));
  ThreadPool pool(c.threads);
  const int64_t part = (c.n / c.threads + 15) / 16 * 16;
  int64_t call = 0;
  const double seconds = best_time(state, c.threads, [&] {
    const PackedWeight w = weights.copy(call++);
    const auto columns = [&](int64_t i) {
      const int64_t n0 = i * part, n1 = std::min(n0 + part, c.n);
      if (!activation.is_quantized()) {
        kernels::packed_gemm_float(w, x.data(), c.k, 0, c.m, n0, n1, out.data(), c.n, level);
      } else {
        kernels::packed_gemm(plan, w, {prepared.data(), a_units.data(), c.m}, 0, c.m, n0, n1,
                             out.data(), c.n);
      }
    };
    if (c.threads == 1) {
      columns(0);
    } else {
      pool.parallel_for(c.threads, columns);
    }
  });
  state.SetLabel(kernels::packed_plan_text(plan));
  if (c.m <= 8) {
    const double rate = static_cast<double>(weights.size) / seconds;
    state.counters["GB/s"] = rate * 1e-9;
    if (!c.in_cache) state.counters["%read"] = 100 * rate / read_ceiling(c.threads);
    return;
  }
  static const CpuCeilings one = measure_cpu_flops(1), two = measure_cpu_flops(2);
  const CpuCeilings& ceilings = c.threads == 1 ? one : two;
  const double rate = 2.0 * static_cast<double>(c.m * c.n * c.k) / seconds;
  const double peak =
      ceilings.flops(!activation.is_quantized() ? ComputeType::kFp32 : ComputeType::kInt8);
  state.counters["GOP/s"] = rate * 1e-9;
  state.counters["%peak"] = 100 * rate / peak;
}

void register_all() {
  struct Format {
    const char *name, *w, *a;
  };
  const Format formats[] = {
      {"w4a4", "int4.ste", "int4.ste"}, {"w2a2", "int2.ste", "int2.ste"},
      {"w1a1", "int1.ste", "int1.ste"}, {"w3a3", "int3.ste", "int3.ste"},
      {"w8a8", "int8.ste", "int8.ste"}, {"w4a8", "int4.ste", "int8.ste"},
      {"w4a16", "int4.ste", "none"},    {"w2a16", "int2.ste", "none"},
      {"fp4", "fp4.ste", "fp4.ste"},    {"4of8", "int4_4of8.ste", "int4.ste"}};
  const std::pair<int64_t, int64_t> shapes[] = {
      {6144, 2048}, {2048, 2048}, {11264, 2048}, {2048, 5632}};
  for_each_level(IsaLevel::kAmx, [&](IsaLevel level, const std::string& name) {
    if (level == IsaLevel::kScalar) return;
    for (const auto& [format, w, a] : formats) {
      for (const int64_t m : {1, 2, 4, 8, 32, 512}) {
        for (const auto& [n, k] : shapes) {
          if (n == 2048 && k == 2048 && m <= 8) {
            add(name + "/" + format + "/M" + std::to_string(m) + "/cached",
                [=, w = w, a = a](auto& state) {
                  run_case(state, level, {w, a, m, 512, 2048, 1, true});
                });
          }
          for (const int threads : {1, 2}) {
            const Case c{w, a, m, n, k, threads};
            add(name + "/" + format + "/M" + std::to_string(m) + "/N" + std::to_string(n) + "/K" +
                    std::to_string(k) + "/threads" + std::to_string(threads),
                [=](auto& state) { run_case(state, level, c); });
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  return quest::bench::run(argc, argv, quest::bench::register_all);
}
