// The definitions of gemm_fixed_point.
#include "quest/kernels/gemm_fixed_point.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quest/kernels/gemm_fixed_point_levels.h"

namespace quest::kernels {
namespace {

// K values of a row of a or a column of b.
struct FixedPointVector {
  float unit = 1;
  std::vector<FixedPointDigits> digits;
};

FixedPointVector fixed_point(const float* values, int64_t stride, int64_t k,
                             const float* k_scales) {
  const auto value = [&](int64_t i) {
    return k_scales == nullptr ? values[i * stride] : values[i * stride] * k_scales[i];
  };
  float largest = 0;
  for (int64_t i = 0; i < k; ++i) {
    const float magnitude = std::abs(value(i));
    if (magnitude > largest || std::isnan(magnitude)) largest = magnitude;
    if (std::isnan(largest)) break;
  }
  FixedPointVector out;
  const FixedPointScale scale = fixed_point_scale_reference(largest);
  out.unit = scale.unit;
  for (int64_t i = 0; i < k; ++i) {
    const float q = std::isnan(scale.unit) ? 0.0f : std::nearbyint(value(i) * scale.inverse);
    out.digits.push_back(fixed_point_digits_reference(static_cast<int32_t>(q)));
  }
  return out;
}

}  // namespace

FixedPointScale fixed_point_scale_reference(float largest) {
  if (!std::isfinite(largest)) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  largest = std::max(largest, detail::kFixedPointSmallestRow);
  return {largest / detail::kFixedPointLargest, detail::kFixedPointLargest / largest};
}

FixedPointDigits fixed_point_digits_reference(int32_t q) {
  FixedPointDigits digits;
  digits.low = static_cast<int8_t>(q);
  q = (q - digits.low) / 256;
  digits.middle = static_cast<int8_t>(q);
  digits.high = static_cast<int8_t>((q - digits.middle) / 256);
  return digits;
}

void gemm_fixed_point_reference(const GemmFixedPoint& product) {
  std::vector<FixedPointVector> a, b;
  for (int64_t i = 0; i < product.m; ++i) {
    a.push_back(fixed_point(product.a.data + i * product.a.row_stride, product.a.column_stride,
                            product.k, product.a.k_scales));
  }
  for (int64_t j = 0; j < product.n && product.codes == nullptr; ++j) {
    b.push_back(fixed_point(product.b.data + j * product.b.column_stride, product.b.row_stride,
                            product.k, product.b.k_scales));
  }
  for (int64_t i = 0; i < product.m; ++i) {
    const FixedPointVector& row = a[static_cast<size_t>(i)];
    for (int64_t j = 0; j < product.n; ++j) {
      int32_t sums[3] = {};  // of weight 2^32, 2^24, 2^16; with codes 2^16, 2^8, 1
      float column_unit = 1;
      for (int64_t k = 0; k < product.k; ++k) {
        const FixedPointDigits& x = row.digits[static_cast<size_t>(k)];
        if (product.codes != nullptr) {
          const int32_t code = product.codes[k * product.codes_stride + j];
          sums[0] += x.high * code;
          sums[1] += x.middle * code;
          sums[2] += x.low * code;
          continue;
        }
        const FixedPointDigits& y = b[static_cast<size_t>(j)].digits[static_cast<size_t>(k)];
        sums[0] += x.high * y.high;
        sums[1] += x.high * y.middle + x.middle * y.high;
        sums[2] += x.high * y.low + x.middle * y.middle + x.low * y.high;
      }
      if (product.codes == nullptr) column_unit = b[static_cast<size_t>(j)].unit * 65536.0f;
      const float low = std::fma(static_cast<float>(sums[1]), 256.0f, static_cast<float>(sums[2]));
      const float sum = std::fma(static_cast<float>(sums[0]), 65536.0f, low);
      const float value = sum * row.unit * column_unit;
      float& out = product.out[i * product.ldo + j];
      out = product.accumulate ? out + value : value;
    }
  }
}

}  // namespace quest::kernels
