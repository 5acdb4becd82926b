#include "quest/base/gpu_ceilings.h"

#include <algorithm>

#include <fmt/format.h>

namespace quest {
namespace {

// Of tensor cores at compute capability 9.0: what the data sheet of the H100 SXM is computed with
// (132 x 4096 x 1.83 GHz = 989 TFLOP/s), below the clock that idle cores may reach.
constexpr double kHopperTensorClock = 1.83e9;

// BF16 operations of a processor in a cycle, dense, FP32 sums; INT8 takes twice as many.
double operations_per_cycle(const GpuFacts& facts) {
  if (facts.major == 9 && facts.minor == 0) return 4096;
  if (facts.major == 8 && facts.minor == 0) return 2048;
  return 0;
}

}  // namespace

GpuCeilings gpu_ceilings(const GpuFacts& facts) {
  const double clock =
      facts.major == 9 ? std::min(facts.clock_hertz, kHopperTensorClock) : facts.clock_hertz;
  GpuCeilings c;
  c.memory_bytes = 2 * facts.memory_clock_hertz * facts.memory_bus_bits / 8;
  c.bf16_operations = operations_per_cycle(facts) * facts.processors * clock;
  c.int8_operations = 2 * c.bf16_operations;
  return c;
}

double GpuCeilings::least_seconds(double bytes, double operations,
                                  double operations_ceiling) const {
  const double moving = memory_bytes > 0 ? bytes / memory_bytes : 0;
  return std::max(moving, operations_ceiling > 0 ? operations / operations_ceiling : 0);
}

double GpuCeilings::share(double bytes, double operations, double operations_ceiling,
                          double seconds) const {
  return least_seconds(bytes, operations, operations_ceiling) / seconds;
}

std::string describe(const GpuCeilings& ceilings) {
  std::string text = fmt::format("memory {:.2f} TB/s", ceilings.memory_bytes * 1e-12);
  if (ceilings.bf16_operations == 0) return text + ", products not known";
  return text + fmt::format(", BF16 {:.0f} TFLOP/s, INT8 {:.0f} TOP/s",
                            ceilings.bf16_operations * 1e-12, ceilings.int8_operations * 1e-12);
}

}  // namespace quest
