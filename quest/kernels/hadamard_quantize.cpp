// The chooser of hadamard_quantize.h: checks, the plan of a call, and the level whose code runs.
#include "quest/kernels/hadamard_quantize.h"

#include <cmath>
#include <vector>

#include "quest/base/error.h"
#include "quest/kernels/hadamard_quantize_levels.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/sum_of_squares.h"

namespace quest::kernels {
namespace {

// The levels that have code of their own. AVX512-VNNI and AMX add nothing that this operation
// needs.
enum class Version { kScalar, kAvx2, kAvx512 };

Version version_for(IsaLevel level) {
#if defined(__x86_64__) || defined(_M_X64)
  if (level >= IsaLevel::kAvx512) return Version::kAvx512;
  if (level >= IsaLevel::kAvx2) return Version::kAvx2;
#endif
  static_cast<void>(level);
  return Version::kScalar;
}

CodeKind code_kind(const QuantSpec& spec) {
  switch (spec.grid) {
    case Grid::kTernary:
      return CodeKind::kTernary;
    case Grid::kUniform4of8:
      return CodeKind::kOdd4of8;
    case Grid::kFp4:
      return CodeKind::kNumberTable;
    case Grid::kGaussian:
    case Grid::kGaussianConverged:
      return CodeKind::kIndexTable;
    default:
      return spec.bits == 8 ? CodeKind::kOdd8Bit : CodeKind::kOdd;
  }
}

MaskKind mask_kind(GradientEstimator estimator) {
  switch (estimator) {
    case GradientEstimator::kTrust:
    case GradientEstimator::kTrustHalfGap:
      return MaskKind::kTrust;
    case GradientEstimator::kClip:
      return MaskKind::kClip;
    case GradientEstimator::kSte:
      break;
  }
  return MaskKind::kOnes;
}

// Throws kUsage for grids without codes.
QuantizePlan make_plan(const QuantSpec& spec, bool has_mask) {
  const CodeFormat format = code_format(spec);
  QuantizePlan plan;
  plan.spec = &spec;
  plan.code = code_kind(spec);
  plan.mask = has_mask ? mask_kind(spec.estimator) : MaskKind::kNone;
  plan.multiplier = static_cast<float>(format.multiplier);
  plan.offset = static_cast<float>(format.offset);
  if (plan.code == CodeKind::kNumberTable || plan.code == CodeKind::kIndexTable) {
    plan.table = &level_table<float>(spec);
  } else {
    plan.half_levels =
        spec.grid == Grid::kTernary ? 1.0f : static_cast<float>(format.max_number) / 2;
  }
  return plan;
}

// Scratch of this thread for one row: the padded row, then its chunk sums.
void set_scratch(QuantizePlan& plan, int64_t k) {
  thread_local std::vector<float> scratch;
  const size_t chunks = (static_cast<size_t>(k) + kSumChunk - 1) / kSumChunk;
  if (scratch.size() < chunks * (kSumChunk + 1)) scratch.resize(chunks * (kSumChunk + 1));
  plan.row = scratch.data();
  plan.chunk_sums = scratch.data() + chunks * kSumChunk;
}

template <class T>
void transform(bool hadamard, const T* x, const uint8_t* mask, int64_t m, int64_t k, T* y,
               IsaLevel level) {
  const int64_t block = hadamard ? hadamard_block_size(k) : 1;
  [[maybe_unused]] const float norm = hadamard ? hadamard_norm<float>(block) : 1.0f;
  switch (version_for(level)) {
#if defined(__x86_64__) || defined(_M_X64)
    case Version::kAvx512:
      return avx512::mask_hadamard(block, norm, x, mask, m, k, y);
    case Version::kAvx2:
      return avx2::mask_hadamard(block, norm, x, mask, m, k, y);
#endif
    default:
      return scalar::mask_hadamard(hadamard, x, mask, m, k, y);
  }
}

}  // namespace

bool finish_row_constants(const QuantizePlan& plan, int64_t k, RowConstants<float>& constants) {
  const size_t chunks = (static_cast<size_t>(k) + kSumChunk - 1) / kSumChunk;
  const float sum = sum_of_chunks<float>({plan.chunk_sums, chunks}, chunks);
  const float rms = std::sqrt(sum / static_cast<float>(k));
  if (!std::isfinite(rms)) return false;
  constants = row_constants<float>(*plan.spec, rms);
  return true;
}

template <class T>
int64_t hadamard_quantize(const QuantSpec& spec, const T* x, int64_t m, int64_t k, int8_t* codes,
                          float* units, uint8_t* mask, IsaLevel level) {
  QuantizePlan plan = make_plan(spec, mask != nullptr);
  check_row_size(spec, k);
  if (spec.hadamard) {
    plan.block = hadamard_block_size(k);
    plan.norm = hadamard_norm<float>(plan.block);
  }
  set_scratch(plan, k);
  switch (version_for(level)) {
#if defined(__x86_64__) || defined(_M_X64)
    case Version::kAvx512:
      return avx512::hadamard_quantize(plan, x, m, k, codes, units, mask);
    case Version::kAvx2:
      return avx2::hadamard_quantize(plan, x, m, k, codes, units, mask);
#endif
    default:
      return scalar::hadamard_quantize(spec, x, m, k, codes, units, mask);
  }
}

template <class T>
void mask_hadamard(const QuantSpec& spec, const T* grad_values, const uint8_t* mask, int64_t m,
                   int64_t k, T* grad_x, IsaLevel level) {
  check_row_size(spec, k);
  transform(spec.hadamard, grad_values, mask, m, k, grad_x, level);
}

template <class T>
void hadamard_rows(const T* x, int64_t m, int64_t k, T* y, IsaLevel level) {
  transform(true, x, nullptr, m, k, y, level);
}

template <class T>
void dequantize_rows(const QuantSpec& spec, const int8_t* codes, const float* units, int64_t m,
                     int64_t k, T* values, IsaLevel level) {
  const QuantizePlan plan = make_plan(spec, false);
  switch (version_for(level)) {
#if defined(__x86_64__) || defined(_M_X64)
    case Version::kAvx512:
      return avx512::dequantize_rows(plan, codes, units, m, k, values);
    case Version::kAvx2:
      return avx2::dequantize_rows(plan, codes, units, m, k, values);
#endif
    default:
      return scalar::dequantize_rows(spec, codes, units, m, k, values);
  }
}

const char* hadamard_quantize_plan(IsaLevel level) {
  switch (version_for(level)) {
    case Version::kAvx512:
      return "avx512";
    case Version::kAvx2:
      return "avx2";
    default:
      return "scalar";
  }
}

#define QUEST_INSTANTIATE(T)                                                                       \
  template int64_t hadamard_quantize<T>(const QuantSpec&, const T*, int64_t, int64_t, int8_t*,     \
                                        float*, uint8_t*, IsaLevel);                               \
  template void mask_hadamard<T>(const QuantSpec&, const T*, const uint8_t*, int64_t, int64_t, T*, \
                                 IsaLevel);                                                        \
  template void hadamard_rows<T>(const T*, int64_t, int64_t, T*, IsaLevel);                        \
  template void dequantize_rows<T>(const QuantSpec&, const int8_t*, const float*, int64_t,         \
                                   int64_t, T*, IsaLevel);
QUEST_INSTANTIATE(float)
QUEST_INSTANTIATE(bfloat16)
#undef QUEST_INSTANTIATE

}  // namespace quest::kernels
