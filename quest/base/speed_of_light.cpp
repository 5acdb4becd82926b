#include "quest/base/speed_of_light.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <functional>
#include <new>
#include <numeric>
#include <thread>
#include <unistd.h>
#include <vector>

#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/thread_pool.h"
#if defined(__x86_64__)
#include "quest/base/x86/probes.h"
#endif

namespace quest {

namespace {

constexpr int kRepetitions = 5;

using Clock = std::chrono::steady_clock;

// Plain C++ for any CPU; the compiler may use what its default instruction set has.
float fp32_portable(int64_t rounds) {
  float sums[16];
  std::iota(std::begin(sums), std::end(sums), 0.0f);
  for (int64_t r = 0; r < rounds; ++r) {
    for (float& sum : sums) sum = sum * 0.5f + 0.5f;
  }
  return std::accumulate(std::begin(sums), std::end(sums), 0.0f);
}
constexpr int64_t kPortableOperations = 16 * 2;

// Keeps a result alive without writing it anywhere.
template <class T>
void keep(T value) {
  __asm__ volatile("" ::"r,m"(value) : "memory");
}

// Units of work per second of all threads together: the best of several repetitions, in each of
// which all threads begin together and repeat `work` (which returns its units) until the time is
// over.
double best_rate(int threads, double seconds, const std::function<double(int thread)>& work) {
  const double slice = seconds / kRepetitions;
  std::vector<std::array<double, kRepetitions>> rates(static_cast<size_t>(threads));
  std::barrier start(threads);
  const auto run = [&](int thread) {
    for (int repetition = 0; repetition < kRepetitions; ++repetition) {
      start.arrive_and_wait();
      const auto begin = Clock::now();
      double units = 0, elapsed = 0;
      do {
        units += work(thread);
        elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
      } while (elapsed < slice);
      rates[static_cast<size_t>(thread)][static_cast<size_t>(repetition)] = units / elapsed;
    }
  };
  ThreadPool pool(threads);
  // Every index must have a thread of its own, since all of them meet at the barrier: none can take
  // a second index before it has left the first.
  pool.parallel_for(threads, [&](int64_t thread) { run(static_cast<int>(thread)); });
  double best = 0;
  for (size_t repetition = 0; repetition < kRepetitions; ++repetition) {
    double sum = 0;
    for (const auto& rate : rates) sum += rate[repetition];
    best = std::max(best, sum);
  }
  return best;
}

double compute_rate(int threads, double seconds, float (*run)(int64_t),
                    int64_t operations_per_round) {
  constexpr int64_t kRounds = 2000;
  return best_rate(threads, seconds, [&](int) {
    keep(run(kRounds));
    return static_cast<double>(kRounds * operations_per_round);
  });
}

// Independent sums over cache lines: the reads, not the additions, set the pace.
uint64_t read_words(const uint64_t* words, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8) {
    __builtin_prefetch(words + i + 64);
    for (size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
  }
  return std::accumulate(std::begin(sums), std::end(sums), uint64_t{0});
}

size_t bytes_beyond_the_caches() {
  constexpr long kLeast = 128L << 20, kMost = 1024L << 20;
  long cache = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  cache = std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE));
#endif
  return static_cast<size_t>(std::clamp(4 * cache, kLeast, kMost));
}

double memory_rate(int threads, double seconds) {
  const size_t words = bytes_beyond_the_caches() / sizeof(uint64_t);
  std::vector<uint64_t> memory;
  try {
    memory.assign(words, 1);
  } catch (const std::bad_alloc&) {
    QUEST_THROW(ErrorKind::kEnvironment, "measuring the memory's speed needs {} of free memory",
                format_quantity(static_cast<double>(words * sizeof(uint64_t)), "B"));
  }
  constexpr size_t kChunk = size_t{1} << 17;  // words between two looks at the clock: 1 MiB
  const size_t share = words / static_cast<size_t>(threads);
  const size_t chunk = std::min(kChunk, share);
  // Each thread walks its share in a circle and goes on where it stopped.
  std::vector<size_t> positions(static_cast<size_t>(threads) * 8, 0);  // a cache line apart
  return best_rate(threads, seconds, [&](int thread) {
    size_t& position = positions[static_cast<size_t>(thread) * 8];
    if (position + chunk > share) position = 0;
    keep(read_words(memory.data() + static_cast<size_t>(thread) * share + position, chunk));
    position += chunk;
    return static_cast<double>(chunk * sizeof(uint64_t));
  });
}

void note(CpuCeilings& ceilings, ComputeType type, double rate, const char* instructions) {
  const auto i = static_cast<size_t>(type);
  if (rate <= ceilings.flops_by_type[i]) return;
  ceilings.flops_by_type[i] = rate;
  ceilings.instructions[i] = instructions;
}

}  // namespace

const char* compute_type_name(ComputeType type) {
  switch (type) {
    case ComputeType::kFp32:
      return "fp32";
    case ComputeType::kBf16:
      return "bf16";
    case ComputeType::kInt8:
      return "int8";
  }
  return "unknown";
}

CpuCeilings measure_cpu_flops(int threads, double seconds_per_probe, IsaLevel at_most) {
  QUEST_CHECK(threads >= 1, ErrorKind::kUsage,
              "the number of threads is {}, allowed are 1 and more", threads);
  QUEST_CHECK(seconds_per_probe > 0, ErrorKind::kUsage,
              "a probe takes {} s, allowed is more than 0", seconds_per_probe);
  CpuCeilings ceilings;
  ceilings.threads = threads;
  bool has_vector_fp32 = false;
#if defined(__x86_64__)
  for (const auto* probe = internal::x86_compute_probes(); probe->run != nullptr; ++probe) {
    if (probe->level > at_most || !probe->supported()) continue;
    has_vector_fp32 |= probe->type == ComputeType::kFp32;
    note(ceilings, probe->type,
         compute_rate(threads, seconds_per_probe, probe->run, probe->operations_per_round),
         probe->instructions);
  }
#endif
  if (!has_vector_fp32) {
    note(ceilings, ComputeType::kFp32,
         compute_rate(threads, seconds_per_probe, fp32_portable, kPortableOperations), "portable");
  }
  // Operands of the narrow types can always be widened and multiplied as FP32.
  const double fp32 = ceilings.flops(ComputeType::kFp32);
  const std::string fp32_instructions =
      ceilings.instructions[static_cast<size_t>(ComputeType::kFp32)];
  for (const ComputeType type : {ComputeType::kBf16, ComputeType::kInt8}) {
    note(ceilings, type, fp32, fp32_instructions.c_str());
  }
  return ceilings;
}

CpuCeilings measure_cpu_ceilings(int threads, double seconds_per_probe, IsaLevel at_most) {
  CpuCeilings ceilings = measure_cpu_flops(threads, seconds_per_probe, at_most);
  ceilings.memory_read_bytes_per_second = memory_rate(threads, seconds_per_probe);
  return ceilings;
}

const CpuCeilings& cpu_ceilings() {
  static const CpuCeilings ceilings = measure_cpu_ceilings(default_thread_count());
  return ceilings;
}

std::string describe(const CpuCeilings& ceilings) {
  std::string text;
  for (const auto& [type, label, unit] : {std::tuple{ComputeType::kFp32, "FP32", "FLOP/s"},
                                          {ComputeType::kBf16, "BF16", "FLOP/s"},
                                          {ComputeType::kInt8, "INT8", "OP/s"}}) {
    const double rate = ceilings.flops(type);
    text += fmt::format("{} {:.3g} T{} ({}), ", label, rate * 1e-12, unit,
                        ceilings.instructions[static_cast<size_t>(type)]);
  }
  return text + fmt::format("memory {:.3g} GB/s, {}", ceilings.memory_read_bytes_per_second * 1e-9,
                            format_count(ceilings.threads, "thread"));
}

}  // namespace quest
