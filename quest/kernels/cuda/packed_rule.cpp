#include "quest/kernels/cuda/packed_rule.h"

#include <algorithm>
#include <limits>

#include "quest/base/error.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/quant/code_tiles.h"
#include "quest/quant/quantizer.h"

namespace quest::kernels::cuda {
namespace {

// Sums of fields in place are up to 255 * 128 for each column.
constexpr int64_t kMaxColumns = 65536;

bool has_codes(const QuantSpec& spec) {
  return spec.grid != Grid::kNone && spec.grid != Grid::kMask4of8 && spec.grid != Grid::kRegistered;
}

}  // namespace

bool packed_gemm_supports(const QuantSpec& weight, const QuantSpec& activation, int64_t k) {
  if (!has_codes(weight) || !has_codes(activation) || weight.grid == Grid::kUniform4of8) {
    return false;
  }
  const CodeFormat w = code_format(weight), a = code_format(activation);
  if (!w.is_integer || !a.is_integer) return false;
  const int64_t largest = int64_t{a.max_number} * w.max_number;
  return k >= 1 && k <= kMaxColumns && k <= std::numeric_limits<int32_t>::max() / largest;
}

bool needs_number_sums(const QuantSpec& weight, const QuantSpec& activation) {
  if (weight.is_one_bit() && activation.is_one_bit()) return true;
  return has_codes(activation) && code_format(activation).offset != 0;
}

bool unpack_numbers_supports(const QuantSpec& weight) {
  if (!has_codes(weight)) return false;
  const CodeFormat format = code_format(weight);
  return format.is_integer && format.max_number <= std::numeric_limits<int8_t>::max();
}

std::string packed_gemm_plan(const QuantSpec& weight, const QuantSpec& activation, int64_t m) {
  if (!packed_gemm_supports(weight, activation, 1)) return "none";
  const std::string start = "lane order, ";
  if (weight.is_one_bit() && activation.is_one_bit()) {
    return start + "mma of bits, population count";
  }
  if (weight.grid == Grid::kFp4) return start + "mma s8 x s8, numbers by byte permutation";
  return start + fmt::format("mma u8 x s8, {} bits {}", weight.bits,
                             m <= 16 || weight.bits == 8 ? "in place" : "unpacked in registers");
}

PackedRule weight_rule(const QuantSpec& weight) {
  const StoredFormat format = stored_format(weight);
  PackedRule rule;
  rule.bits = format.bits;
  rule.w_multiplier = format.multiplier;
  rule.w_offset = format.offset;
  if (weight.grid == Grid::kUniform4of8) {
    rule.kind = kPackedSparse;
  } else if (!format.levels.empty()) {
    rule.kind = kPackedGaussian;
    std::copy(format.levels.begin(), format.levels.end(), rule.levels);
  } else if (!format.is_affine) {
    rule.kind = kPackedFp4;
    rule.w_multiplier = 1;
    rule.w_offset = 0;
    std::copy(format.numbers.begin(), format.numbers.end(), rule.numbers);
  } else {
    rule.kind = format.bits;
  }
  return rule;
}

PackedRule product_rule(const QuantSpec& weight, const QuantSpec& activation, int64_t m,
                        int64_t k) {
  QUEST_CHECK(packed_gemm_supports(weight, activation, k), ErrorKind::kUsage,
              "[packed_gemm] no product of packed {} weights with {} activations over K={}: unpack "
              "the weight",
              to_string(weight), to_string(activation), k);
  QUEST_CHECK(m >= 0 && m <= kMaxPackedRows, ErrorKind::kUsage,
              "[packed_gemm] {} rows, at most {} at once", m, kMaxPackedRows);
  PackedRule rule = code_rule(weight, activation);
  if (weight.is_one_bit() && activation.is_one_bit()) {
    rule.kind = kPackedOneBit;
    rule.a_multiplier = 2;
    rule.a_offset = -1;
  }
  return rule;
}

PackedRule code_rule(const QuantSpec& weight, const QuantSpec& activation) {
  PackedRule rule = weight_rule(weight);
  const CodeFormat format = code_format(activation);
  rule.a_multiplier = format.multiplier;
  rule.a_offset = format.offset;
  return rule;
}

void check_numbers_fit(const QuantSpec& weight) {
  QUEST_CHECK(unpack_numbers_supports(weight), ErrorKind::kUsage,
              "[unpack_numbers] the numbers of {} do not fit int8: take unpack_values",
              to_string(weight));
}

void check_has_sums(const QuantSpec& weight) {
  QUEST_CHECK(
      has_codes(weight) && code_format(weight).is_integer && weight.grid != Grid::kUniform4of8,
      ErrorKind::kUsage, "[number_sums] not for the grid of {}", to_string(weight));
}

void check_has_number_sums(const QuantSpec& weight, const void* sums) {
  QUEST_ASSERT(sums != nullptr, "a product with {} needs number_sums", to_string(weight));
}

void check_decode_linear(bool supports, const char* operation, const QuantSpec& weight,
                         const QuantSpec& activation, int64_t n, int64_t k) {
  QUEST_CHECK(supports, ErrorKind::kUsage,
              "[{}] not for {} activations and a weight {} x {} of {}: quantize them and take "
              "packed_gemm",
              operation, to_string(activation), n, k, to_string(weight));
}

void check_table_columns(int64_t columns) {
  QUEST_CHECK(columns >= 1 && columns <= int64_t{1} << 17, ErrorKind::kUsage,
              "[table_gemm] C={}: integer tables have up to {} columns", columns, int64_t{1} << 17);
}

}  // namespace quest::kernels::cuda
