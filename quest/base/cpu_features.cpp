#include "quest/base/cpu_features.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sched.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "quest/base/error.h"
#include "quest/base/white_space.h"

namespace quest {

namespace {

constexpr std::array<std::string_view, 5> kLevelNames = {"scalar", "avx2", "avx512", "avx512vnni",
                                                         "amx"};

#if defined(__x86_64__)

struct CpuidRegisters {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero if the CPU has no such leaf.
CpuidRegisters cpuid(unsigned leaf, unsigned subleaf) {
  CpuidRegisters r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

bool bit(unsigned value, int position) { return ((value >> position) & 1u) != 0; }

// XCR0: the register sets that the operating system saves and restores.
uint64_t enabled_register_sets() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Linux gives the 8 KB of AMX tile state only to processes that ask for it.
bool request_amx_permission() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr unsigned long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

void detect_instructions(CpuFeatures& f) {
  const CpuidRegisters leaf1 = cpuid(1, 0);
  const bool os_saves = bit(leaf1.ecx, 27);  // OSXSAVE: xgetbv exists
  const uint64_t sets = os_saves ? enabled_register_sets() : 0;
  const bool ymm = (sets & 0x6) == 0x6;
  const bool zmm = ymm && (sets & 0xe0) == 0xe0;
  const bool tiles = zmm && (sets & 0x60000) == 0x60000;

  const CpuidRegisters leaf7 = cpuid(7, 0);
  const CpuidRegisters leaf7_1 = cpuid(7, 1);
  f.fma = ymm && bit(leaf1.ecx, 12);
  f.f16c = ymm && bit(leaf1.ecx, 29);
  f.avx2 = ymm && bit(leaf7.ebx, 5);
  f.avx512f = zmm && bit(leaf7.ebx, 16);
  f.avx512dq = zmm && bit(leaf7.ebx, 17);
  f.avx512bw = zmm && bit(leaf7.ebx, 30);
  f.avx512vl = zmm && bit(leaf7.ebx, 31);
  f.avx512vbmi = zmm && bit(leaf7.ecx, 1);
  f.avx512vnni = zmm && bit(leaf7.ecx, 11);
  f.avx512bitalg = zmm && bit(leaf7.ecx, 12);
  f.avx512vpopcntdq = zmm && bit(leaf7.ecx, 14);
  f.avx512bf16 = zmm && bit(leaf7_1.eax, 5);
  if (tiles && bit(leaf7.edx, 24) && request_amx_permission()) {
    f.amx_tile = true;
    f.amx_bf16 = bit(leaf7.edx, 22);
    f.amx_int8 = bit(leaf7.edx, 25);
  }
}

std::string brand_string() {
  if (static_cast<unsigned>(__get_cpuid_max(0x80000000u, nullptr)) < 0x80000004u) return {};
  std::array<char, 49> text{};
  for (unsigned i = 0; i < 3; ++i) {
    const CpuidRegisters r = cpuid(0x80000002u + i, 0);
    std::memcpy(text.data() + 16 * i, &r, sizeof(r));
  }
  return text.data();
}

#else

void detect_instructions(CpuFeatures&) {}

std::string brand_string() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos)
      return line.substr(colon + 2);
  }
  return {};
}

#endif

// CPUs pad their name with spaces.
std::string model_name() {
  const std::string brand = brand_string();
  const std::string_view name = trimmed(brand, " ");
  return name.empty() ? "unknown CPU" : std::string(name);
}

// Cores that the quota of a container allows; 0 if there is none.
int quota_cores() {
  double quota = 0, period = 0;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2) {
    v2 >> quota >> period;  // "max 100000" fails to parse: no quota
  } else {
    std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    std::ifstream v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (!(v1_quota >> quota && v1_period >> period)) return 0;
  }
  if (!(quota > 0 && period > 0)) return 0;
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

int count_usable_cores() {
  int cores = 0;
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
#endif
  if (cores <= 0) cores = static_cast<int>(std::thread::hardware_concurrency());
  const int quota = quota_cores();
  if (quota > 0) cores = std::min(cores, quota);
  return std::max(1, cores);
}

CpuFeatures detect() {
  CpuFeatures f;
  detect_instructions(f);
  f.model_name = model_name();
  f.usable_cores = count_usable_cores();
  return f;
}

std::string level_list() {
  std::string list;
  for (const std::string_view name : kLevelNames) {
    if (!list.empty()) list += ", ";
    list += name;
  }
  return list;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

IsaLevel highest_isa_level() {
  const CpuFeatures& f = cpu_features();
  if (!(f.avx2 && f.fma && f.f16c)) return IsaLevel::kScalar;
  if (!(f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl)) return IsaLevel::kAvx2;
  if (!(f.avx512vnni && f.avx512vbmi && f.avx512bitalg && f.avx512vpopcntdq)) {
    return IsaLevel::kAvx512;
  }
  if (!(f.amx_tile && f.amx_int8 && f.amx_bf16)) return IsaLevel::kAvx512Vnni;
  return IsaLevel::kAmx;
}

IsaLevel isa_level_from_name(std::string_view name) {
  const auto found = std::find(kLevelNames.begin(), kLevelNames.end(), name);
  QUEST_CHECK(found != kLevelNames.end(), ErrorKind::kUsage,
              "instruction-set level is '{}' (QUEST_ISA), allowed are {}", name, level_list());
  const auto level = static_cast<IsaLevel>(found - kLevelNames.begin());
  QUEST_CHECK(
      level <= highest_isa_level(), ErrorKind::kEnvironment,
      "instruction-set level {} was asked for (QUEST_ISA), but this CPU ({}) reaches only {}", name,
      cpu_features().model_name, isa_level_name(highest_isa_level()));
  return level;
}

IsaLevel isa_level() {
  static const IsaLevel level = [] {
    const char* wanted = std::getenv("QUEST_ISA");
    return wanted == nullptr || *wanted == '\0' ? highest_isa_level() : isa_level_from_name(wanted);
  }();
  return level;
}

std::vector<IsaLevel> available_isa_levels() {
  std::vector<IsaLevel> levels;
  for (int i = 0; i <= static_cast<int>(highest_isa_level()); ++i) {
    levels.push_back(static_cast<IsaLevel>(i));
  }
  return levels;
}

std::string_view isa_level_name(IsaLevel level) { return kLevelNames[static_cast<size_t>(level)]; }

}  // namespace quest
