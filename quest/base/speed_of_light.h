// Measured ceilings of this CPU, so that speeds can be reported as a percentage of what is
// possible.
//
//   const CpuCeilings& ceilings = cpu_ceilings();                  // probes once, some tenths of a
//   second double mfu = flops_done / seconds / ceilings.flops(ComputeType::kFp32);
//
// The probes are short loops: independent multiply-adds in registers (no memory traffic) for
// compute, one pass after another over arrays larger than the last-level cache for memory. On a
// busy machine they show what was left over; each is the best of several repetitions. Thread rules:
// any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "quest/base/cpu_features.h"

namespace quest {

enum class ComputeType { kFp32, kBf16, kInt8 };
inline constexpr int kComputeTypeCount = 3;
const char* compute_type_name(ComputeType type);  // "fp32", "bf16", "int8"

struct CpuCeilings {
  int threads = 1;
  double memory_read_bytes_per_second = 0;
  // Multiplications plus additions per second of matrix products with operands of this type, over
  // all threads. A type without an instruction of its own counts as widened to FP32: never below
  // FP32's.
  double flops(ComputeType type) const { return flops_by_type[static_cast<size_t>(type)]; }
  std::array<double, kComputeTypeCount> flops_by_type{};
  // The instructions that the probe of each type used: "avx512", "amx", ...
  std::array<std::string, kComputeTypeCount> instructions;
};

// Probes with `threads` threads, each probe for about `seconds_per_probe`, and with no instructions
// beyond level `at_most`.
CpuCeilings measure_cpu_ceilings(int threads, double seconds_per_probe = 0.05,
                                 IsaLevel at_most = IsaLevel::kAmx);
// The compute probes alone, which need no memory; memory_read_bytes_per_second stays 0. (The memory
// probe reads an array of up to 1 GiB, which a program that keeps freed memory never gives back.)
CpuCeilings measure_cpu_flops(int threads, double seconds_per_probe = 0.05,
                              IsaLevel at_most = IsaLevel::kAmx);
// Measured once in the process, with default_thread_count() threads, at the first call.
const CpuCeilings& cpu_ceilings();
// "FP32 0.16 TFLOP/s (avx512), BF16 ..., memory 21 GB/s, 2 threads": for logs and `quest doctor`.
std::string describe(const CpuCeilings& ceilings);

}  // namespace quest
