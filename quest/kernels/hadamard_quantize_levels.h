// What the chooser hands to the x86 versions of hadamard_quantize.h: plain data and one set of
// entry points per instruction-set level.
//
// The level files are compiled with flags that not every CPU has, so that everything with code in
// common (validation, the row's constants, buffers) stays on this side of the wall, in files for
// any CPU.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/quant/quant_spec.h"
#include "quest/quant/quantizer.h"

namespace quest::kernels {

// How codes are decided and stored.
enum class CodeKind { kOdd, kOdd8Bit, kTernary, kOdd4of8, kNumberTable, kIndexTable };
// What the mask is made of.
enum class MaskKind { kNone, kTrust, kClip, kOnes };

struct QuantizePlan {
  const QuantSpec* spec = nullptr;
  CodeKind code = CodeKind::kOdd;
  MaskKind mask = MaskKind::kNone;
  int64_t block = 1;                         // of the Hadamard transform, 1 for none
  float norm = 1;                            // hadamard_norm(block)
  float half_levels = 0;                     // z is clamped to +- this
  float multiplier = 1, offset = 0;          // number = multiplier * code + offset
  const LevelTable<float>* table = nullptr;  // for the table kinds
  // Scratch of the calling thread: a row of floats padded to whole chunks of 128, and its chunk
  // sums.
  float* row = nullptr;
  float* chunk_sums = nullptr;
};

// Sums up the chunks and gives the row's constants; false if its rms is not finite.
bool finish_row_constants(const QuantizePlan& plan, int64_t k, RowConstants<float>& constants);

// The entry points of a level, with the contracts of hadamard_quantize.h.
#define QUEST_DECLARE_HADAMARD_QUANTIZE(T)                                                       \
  int64_t hadamard_quantize(const QuantizePlan& plan, const T* x, int64_t m, int64_t k,          \
                            int8_t* codes, float* units, uint8_t* mask);                         \
  void mask_hadamard(int64_t block, float norm, const T* values, const uint8_t* mask, int64_t m, \
                     int64_t k, T* out);                                                         \
  void dequantize_rows(const QuantizePlan& plan, const int8_t* codes, const float* units,        \
                       int64_t m, int64_t k, T* values);

namespace avx2 {
QUEST_DECLARE_HADAMARD_QUANTIZE(float)
QUEST_DECLARE_HADAMARD_QUANTIZE(bfloat16)
}  // namespace avx2
namespace avx512 {
QUEST_DECLARE_HADAMARD_QUANTIZE(float)
QUEST_DECLARE_HADAMARD_QUANTIZE(bfloat16)
}  // namespace avx512
#undef QUEST_DECLARE_HADAMARD_QUANTIZE

// The readable version for any CPU.
namespace scalar {
template <class T>
int64_t hadamard_quantize(const QuantSpec& spec, const T* x, int64_t m, int64_t k, int8_t* codes,
                          float* units, uint8_t* mask);
template <class T>
void mask_hadamard(bool hadamard, const T* values, const uint8_t* mask, int64_t m, int64_t k,
                   T* out);
template <class T>
void dequantize_rows(const QuantSpec& spec, const int8_t* codes, const float* units, int64_t m,
                     int64_t k, T* values);
}  // namespace scalar

}  // namespace quest::kernels
