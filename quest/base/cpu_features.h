// What the CPU at hand can do, detected at run time, and the level that kernels are chosen by.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quest {

// Ordered: a level includes those before it. A kernel without a version for the chosen level uses
// the next lower one that exists; `quest doctor` prints which.
enum class IsaLevel {
  kScalar,      // plain C++, any CPU
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, DQ, VL
  kAvx512Vnni,  // + VNNI, VBMI, BITALG/VPOPCNTDQ
  kAmx,         // + AMX-TILE, AMX-INT8, AMX-BF16 (and permission from the kernel)
};

struct CpuFeatures {
  std::string model_name;
  bool avx2 = false, fma = false, f16c = false;
  bool avx512f = false, avx512bw = false, avx512dq = false, avx512vl = false;
  bool avx512vnni = false, avx512vbmi = false, avx512bitalg = false, avx512vpopcntdq = false;
  bool avx512bf16 = false;
  bool amx_tile = false, amx_int8 = false, amx_bf16 = false;  // true only with the OS's permission
  int usable_cores = 1;  // by the process's affinity mask and its cgroup's CPU quota
};

const CpuFeatures& cpu_features();
// Highest level of this CPU.
IsaLevel highest_isa_level();
// The level kernels use: the highest, or lower if QUEST_ISA (scalar, avx2, avx512, avx512vnni, amx)
// says so. A level that the CPU lacks or an unknown name throws kEnvironment / kUsage.
IsaLevel isa_level();
// The level of this name, as QUEST_ISA is read: kUsage (lists the names) if there is none,
// kEnvironment if this CPU lacks it.
IsaLevel isa_level_from_name(std::string_view name);
// For tests: every level this CPU can run, lowest first.
std::vector<IsaLevel> available_isa_levels();
std::string_view isa_level_name(IsaLevel level);

}  // namespace quest
