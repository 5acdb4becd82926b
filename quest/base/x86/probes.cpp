#include "quest/base/x86/probes.h"

#include <array>
#include <cstddef>
#include <immintrin.h>

#include "quest/base/cpu_features.h"

// Each function is compiled for its own instruction set, whatever the flags of the file. 12
// accumulators hide the latency of 4 to 6 cycles at two instructions per cycle, and 14 registers
// fit the 16 of AVX2.
namespace quest::internal {

namespace {

constexpr int kChains = 12;

__attribute__((target("avx2,fma"))) float fp32_avx2(int64_t rounds) {
  // a * x + b converges to 1: no denormals, no infinities.
  const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.5f);
  __m256 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
  }
  __m256 total = sums[0];
  for (int i = 1; i < kChains; ++i) total = _mm256_add_ps(total, sums[i]);
  return _mm256_cvtss_f32(total);
}

__attribute__((target("avx512f"))) float fp32_avx512(int64_t rounds) {
  const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.5f);
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
  }
  __m512 total = sums[0];
  for (int i = 1; i < kChains; ++i) total = _mm512_add_ps(total, sums[i]);
  return _mm512_cvtss_f32(total);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) float bf16_avx512(int64_t rounds) {
  const auto a = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f803f80));  // ones
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, a);
  }
  __m512 total = sums[0];
  for (int i = 1; i < kChains; ++i) total = _mm512_add_ps(total, sums[i]);
  return _mm512_cvtss_f32(total);
}

__attribute__((target("avx512f,avx512vnni"))) float int8_avx512(int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(1);
  __m512i sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, a);
  }
  __m512i total = sums[0];
  for (int i = 1; i < kChains; ++i) total = _mm512_add_epi32(total, sums[i]);
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, total);
  return static_cast<float>(lanes[0]);
}

// Palette 1: tiles of 16 rows of 64 bytes; 0 to 3 are sums, 4 to 7 operands.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

__attribute__((target("amx-tile"))) void begin_tiles() {
  const TileConfig config;
  // GCC 12 declares only the first bytes of the configuration as read: without this, stores to the
  // rest may be dropped.
  __asm__ volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

__attribute__((target("amx-tile"))) float end_tiles() {
  alignas(64) std::array<float, 256> tile{};
  _tile_stored(0, tile.data(), 64);
  __asm__ volatile("" ::"r"(tile.data()) : "memory");
  _tile_release();
  return tile[0];
}

// Between products: where another guest uses the core's other hardware thread, products one right
// after the other run at 0.6 of the rate that they have so (kernels/x86/amx_tiles.h).
inline void gap() { __asm__ volatile(".rept 8\n\tnop\n\t.endr"); }

__attribute__((target("amx-tile,amx-bf16"))) float bf16_amx(int64_t rounds) {
  begin_tiles();
  for (int64_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 4, 6);
    gap();
    _tile_dpbf16ps(1, 4, 7);
    gap();
    _tile_dpbf16ps(2, 5, 6);
    gap();
    _tile_dpbf16ps(3, 5, 7);
    gap();
  }
  return end_tiles();
}

__attribute__((target("amx-tile,amx-int8"))) float int8_amx(int64_t rounds) {
  begin_tiles();
  for (int64_t r = 0; r < rounds; ++r) {
    _tile_dpbssd(0, 4, 6);
    gap();
    _tile_dpbssd(1, 4, 7);
    gap();
    _tile_dpbssd(2, 5, 6);
    gap();
    _tile_dpbssd(3, 5, 7);
    gap();
  }
  return end_tiles();
}

bool has_avx2() { return cpu_features().avx2 && cpu_features().fma; }
bool has_avx512() { return cpu_features().avx512f; }
bool has_avx512bf16() {
  const CpuFeatures& f = cpu_features();
  return f.avx512bf16 && f.avx512bw && f.avx512vl;
}
bool has_vnni() { return cpu_features().avx512f && cpu_features().avx512vnni; }
bool has_amx_bf16() { return cpu_features().amx_tile && cpu_features().amx_bf16; }
bool has_amx_int8() { return cpu_features().amx_tile && cpu_features().amx_int8; }

}  // namespace

const ComputeProbe* x86_compute_probes() {
  // A tile product is 16 x 16 results of 32 (bf16) or 64 (int8) products each.
  static const ComputeProbe probes[] = {
      {ComputeType::kFp32, "avx2", IsaLevel::kAvx2, has_avx2, fp32_avx2, kChains * 8 * 2},
      {ComputeType::kFp32, "avx512", IsaLevel::kAvx512, has_avx512, fp32_avx512, kChains * 16 * 2},
      {ComputeType::kBf16, "avx512bf16", IsaLevel::kAvx512Vnni, has_avx512bf16, bf16_avx512,
       kChains * 32 * 2},
      {ComputeType::kBf16, "amx", IsaLevel::kAmx, has_amx_bf16, bf16_amx, 4 * 16 * 16 * 32 * 2},
      {ComputeType::kInt8, "avx512vnni", IsaLevel::kAvx512Vnni, has_vnni, int8_avx512,
       kChains * 64 * 2},
      {ComputeType::kInt8, "amx", IsaLevel::kAmx, has_amx_int8, int8_amx, 4 * 16 * 16 * 64 * 2},
      {ComputeType::kFp32, nullptr, IsaLevel::kScalar, nullptr, nullptr, 0},
  };
  return probes;
}

}  // namespace quest::internal
