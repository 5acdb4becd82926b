// What a GPU can reach at most, by its data, so that speeds can be reported as a percentage of it.
//
//   const GpuCeilings c = gpu_ceilings(ops::gpu_facts());
//   c.share(bytes, operations, c.int8_operations, seconds);     // 0.85: 85 % of what is possible
//
// The H100 SXM gives 3.35 TB/s, 989 BF16 and 1979 INT8 TFLOP/s; the H200 4.9 TB/s (by its clock;
// its data sheet says 4.8). Thread rules: pure.
#pragma once

#include <cstdint>
#include <string>

namespace quest {

struct GpuFacts {
  std::string name = {};
  int major = 0, minor = 0;       // compute capability
  int processors = 0;             // streaming multiprocessors
  double clock_hertz = 0;         // the highest
  double memory_clock_hertz = 0;  // two transfers each
  int memory_bus_bits = 0;
  int64_t memory_bytes = 0;  // of the device, in use or not
};

struct GpuCeilings {
  double memory_bytes = 0;     // per second
  double bf16_operations = 0;  // multiplications plus additions per second, dense; 0: not known
  double int8_operations = 0;

  // The least time that so many bytes and operations take, whichever takes longer; a ceiling that
  // is 0 is left out.
  double least_seconds(double bytes, double operations, double operations_ceiling) const;
  // least_seconds over what it took; 0 if no ceiling is known.
  double share(double bytes, double operations, double operations_ceiling, double seconds) const;
};

// Products' ceilings are known for compute capabilities 8.0 and 9.0.
GpuCeilings gpu_ceilings(const GpuFacts& facts);
// "memory 3.35 TB/s, BF16 989 TFLOP/s, INT8 1979 TOP/s"
std::string describe(const GpuCeilings& ceilings);

}  // namespace quest
