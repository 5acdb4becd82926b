// The operations of hadamard_quantize.h row by row through the scalar definition (quest/quant).
#include <cmath>
#include <vector>

#include "quest/kernels/hadamard_quantize_levels.h"
#include "quest/quant/hadamard.h"

namespace quest::kernels::scalar {

template <class T>
int64_t hadamard_quantize(const QuantSpec& spec, const T* x, int64_t m, int64_t k, int8_t* codes,
                          float* units, uint8_t* mask) {
  const size_t size = static_cast<size_t>(k);
  const size_t mask_stride = (size + 7) / 8;
  std::vector<float> row(size);
  int64_t first_bad = -1;
  for (int64_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < size; ++j)
      row[j] = static_cast<float>(x[i * k + static_cast<int64_t>(j)]);
    RowOutput<float> out;
    out.codes = {codes + i * k, size};
    if (mask != nullptr) out.mask = {mask + static_cast<size_t>(i) * mask_stride, mask_stride};
    units[i] = quantize_row<float>(spec, row, out);
    if (std::isnan(units[i]) && first_bad < 0) first_bad = i;
  }
  return first_bad;
}

template <class T>
void mask_hadamard(bool hadamard, const T* values, const uint8_t* mask, int64_t m, int64_t k,
                   T* out) {
  const int64_t mask_stride = (k + 7) / 8;
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const bool passes = mask == nullptr || (mask[i * mask_stride + j / 8] >> (j % 8) & 1) != 0;
      row[static_cast<size_t>(j)] = passes ? static_cast<float>(values[i * k + j]) : 0.0f;
    }
    if (hadamard) hadamard_transform<float>(row);
    for (int64_t j = 0; j < k; ++j) out[i * k + j] = T(row[static_cast<size_t>(j)]);
  }
}

template <class T>
void dequantize_rows(const QuantSpec& spec, const int8_t* codes, const float* units, int64_t m,
                     int64_t k, T* values) {
  const CodeFormat format = code_format(spec);
  for (int64_t i = 0; i < m; ++i) {
    const float unit = units == nullptr ? 1.0f : units[i];
    for (int64_t j = 0; j < k; ++j) {
      const int code = codes[i * k + j];
      const float number = format.is_integer
                               ? static_cast<float>(format.multiplier * code + format.offset)
                               : format.levels[static_cast<size_t>(code)];
      values[i * k + j] = T(number * unit);
    }
  }
}

template int64_t hadamard_quantize<float>(const QuantSpec&, const float*, int64_t, int64_t, int8_t*,
                                          float*, uint8_t*);
template int64_t hadamard_quantize<bfloat16>(const QuantSpec&, const bfloat16*, int64_t, int64_t,
                                             int8_t*, float*, uint8_t*);
template void mask_hadamard<float>(bool, const float*, const uint8_t*, int64_t, int64_t, float*);
template void mask_hadamard<bfloat16>(bool, const bfloat16*, const uint8_t*, int64_t, int64_t,
                                      bfloat16*);
template void dequantize_rows<float>(const QuantSpec&, const int8_t*, const float*, int64_t,
                                     int64_t, float*);
template void dequantize_rows<bfloat16>(const QuantSpec&, const int8_t*, const float*, int64_t,
                                        int64_t, bfloat16*);

}  // namespace quest::kernels::scalar
