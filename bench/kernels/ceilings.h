// What the machine can do, measured in the same process as the kernels: a benchmark's numbers mean
// something only next to these. Single-threaded, as the kernels are.
//
//   const double seconds = best_iteration(state, [&] { kernel(...); });
//   report_bandwidth(state, bytes_read_and_written, seconds);
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::bench {

// Processor time of this thread: what others run at the same time does not count.
inline double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Best of several runs of `work`, in seconds of processor time.
inline double best_seconds(const std::function<void()>& work, int runs = 15) {
  double best = 1e30;
  for (int i = 0; i < runs; ++i) {
    const double start = thread_seconds();
    work();
    benchmark::ClobberMemory();
    best = std::min(best, thread_seconds() - start);
  }
  return best;
}

// Bytes read plus bytes written per second by memcpy over this working set (source and
// destination together).
inline double copy_bandwidth(int64_t working_set_bytes) {
  const auto bytes = static_cast<size_t>(std::max<int64_t>(working_set_bytes / 2, 4096));
  std::vector<char> from(bytes, 1), to(bytes, 2);
  std::memcpy(to.data(), from.data(), bytes);
  const int repeats =
      static_cast<int>(std::max<int64_t>(1, (int64_t{1} << 25) / working_set_bytes));
  const double seconds = best_seconds([&] {
    for (int i = 0; i < repeats; ++i) {
      std::memcpy(to.data(), from.data(), bytes);
      benchmark::ClobberMemory();
    }
  });
  return 2.0 * static_cast<double>(bytes) * repeats / seconds;
}

// Runs `work` once per iteration of the state and returns the best time in seconds.
inline double best_iteration(benchmark::State& state, const std::function<void()>& work) {
  double best = 1e30;
  for (auto _ : state) {
    const double start = thread_seconds();
    work();
    benchmark::ClobberMemory();
    best = std::min(best, thread_seconds() - start);
  }
  return best;
}

// GB/s of an operation that must read and write `bytes` at least, and the percentage of what memcpy
// reaches on the same working set.
inline void report_bandwidth(benchmark::State& state, int64_t bytes, double seconds) {
  const double rate = static_cast<double>(bytes) / seconds;
  const double ceiling = copy_bandwidth(bytes);
  state.counters["GB/s"] = rate * 1e-9;
  state.counters["copy GB/s"] = ceiling * 1e-9;
  state.counters["%ceiling"] = 100 * rate / ceiling;
}

// Values in [-1, 1), the same in every run.
inline std::vector<bfloat16> make_values(int64_t count) {
  std::vector<bfloat16> values(static_cast<size_t>(count));
  uint32_t state = 1;
  for (bfloat16& value : values) {
    state = state * 1664525u + 1013904223u;
    value = bfloat16(static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f);
  }
  return values;
}

// Calls f(level, name) for each level of this CPU up to `highest`, for which a kernel has code.
inline void for_each_level(IsaLevel highest,
                           const std::function<void(IsaLevel, const std::string&)>& f) {
  for (const IsaLevel level : available_isa_levels()) {
    if (level <= highest) f(level, std::string(isa_level_name(level)));
  }
}

inline void add(const std::string& name, std::function<void(benchmark::State&)> body) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(body))->Unit(benchmark::kMillisecond);
}

// The main function of a benchmark program.
inline int run(int argc, char** argv, const std::function<void()>& register_all) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace quest::bench
