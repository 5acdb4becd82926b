// The definitions of gemm_bf16.
#include "quest/kernels/gemm_bf16.h"

#include <cmath>
#include <limits>

namespace quest::kernels {

void split_bf16_reference(const float* x, const float* scales, int64_t scale_stride, int64_t count,
                          bfloat16* high, bfloat16* middle, bfloat16* low) {
  const auto piece = [](float value) {  // subnormal values count as zero
    return bfloat16(std::abs(value) < std::numeric_limits<float>::min() ? 0.0f * value : value);
  };
  for (int64_t i = 0; i < count; ++i) {
    float rest = x[i] * scales[i * scale_stride];
    high[i] = piece(rest);
    rest -= static_cast<float>(high[i]);
    middle[i] = piece(rest);
    rest -= static_cast<float>(middle[i]);
    low[i] = piece(rest);
  }
}

void gemm_bf16_reference(const GemmBf16& product) {
  const auto at = [](const GemmOperand& x, int64_t row, int64_t column, int64_t k) {
    const int64_t place = row * x.row_stride + column * x.column_stride;
    if (!x.is_float) return double{static_cast<float>(static_cast<const bfloat16*>(x.data)[place])};
    const float value = static_cast<const float*>(x.data)[place];
    return double{x.k_scales == nullptr ? value : value * x.k_scales[k]};
  };
  for (int64_t i = 0; i < product.m; ++i) {
    for (int64_t j = 0; j < product.n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < product.k; ++k) {
        sum += at(product.a, i, k, k) * at(product.b, k, j, k);
      }
      const int64_t index = i * product.ldo + j;
      if (product.out_is_bfloat16) {
        static_cast<bfloat16*>(product.out)[index] = bfloat16(static_cast<float>(sum));
      } else {
        float& out = static_cast<float*>(product.out)[index];
        out = product.accumulate ? out + static_cast<float>(sum) : static_cast<float>(sum);
      }
    }
  }
}

}  // namespace quest::kernels
