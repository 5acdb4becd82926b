// The definitions of gemm_bf16.
#include "quest/kernels/gemm_bf16.h"

#include <bit>

namespace quest::kernels {

Bf16Pieces split_bf16_reference(float x) {
  const auto round = [](float value) {
    bfloat16 rounded;
    rounded.bits = static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + 0x8000u) >> 16);
    return rounded;
  };
  Bf16Pieces pieces;
  pieces.high = round(x);
  x -= static_cast<float>(pieces.high);
  pieces.middle = round(x);
  x -= static_cast<float>(pieces.middle);
  pieces.low.bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
  return pieces;
}

void gemm_bf16_reference(const GemmBf16& product) {
  const auto at = [](const GemmOperand& x, int64_t row, int64_t column) {
    return double{static_cast<float>(x.data[row * x.row_stride + column * x.column_stride])};
  };
  for (int64_t i = 0; i < product.m; ++i) {
    for (int64_t j = 0; j < product.n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < product.k; ++k) {
        sum += at(product.a, i, k) * at(product.b, k, j);
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
