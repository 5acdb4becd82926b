// The AMX instructions that the kernels of x86/*_amx.cpp use. A tile is 16 rows of 64 bytes. The
// permission to use tiles was asked for by base/cpu_features.
//
// Inline assembly instead of the compiler's intrinsics: those of GCC 12 declare too little of the
// memory that the instructions read (8 bytes of 64 for ldtilecfg, none for tileloadd), so that
// stores before them may be dropped or moved. Compilers never keep values in tile registers
// themselves, and volatile assembly stays in order.
#pragma once

#include <cstdint>

// After each load and product: eight nops. Where the core's other hardware thread is at work (for
// another guest, on a shared machine), tile instructions close to one another make this thread lose
// its turns: products of FP32 in pieces ran at 0.77 TFLOP/s of BF16 without nops, at 1.27 with, and
// at 2.8 with or without on a core of their own (bench/results/train_cpu_*_model_207.md).
#define QUEST_TILE_GAP "\n\t.rept 8\n\tnop\n\t.endr"

namespace quest::kernels::detail {
namespace {

// The operand of ldtilecfg: all 8 tiles are 16 rows of 64 bytes.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

struct AmxTiles {
  static void begin() {
    const TileConfig config;
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  static void end() { asm volatile("tilerelease" : :); }

  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  static void load(const void* memory, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" QUEST_TILE_GAP
                 :
                 : "r"(memory), "r"(stride), "i"(kTile)
                 : "memory");
  }
  template <int kTile>
  static void store(void* memory, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
                 :
                 : "r"(memory), "r"(stride), "i"(kTile)
                 : "memory");
  }
  // Signed bytes of tile kA by unsigned bytes of tile kW (AT&T order: the last operand first).
  template <int kSums, int kA, int kW>
  static void add_products() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" QUEST_TILE_GAP
                 :
                 : "i"(kSums), "i"(kA), "i"(kW));
  }
  // Signed bytes by signed bytes.
  template <int kSums, int kA, int kB>
  static void add_signed_products() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" QUEST_TILE_GAP
                 :
                 : "i"(kSums), "i"(kA), "i"(kB));
  }
  // bfloat16 values of tile kA by pairs of tile kB, added to FP32 sums.
  template <int kSums, int kA, int kB>
  static void add_bf16_products() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" QUEST_TILE_GAP
                 :
                 : "i"(kSums), "i"(kA), "i"(kB));
  }
};

}  // namespace
}  // namespace quest::kernels::detail

#undef QUEST_TILE_GAP
