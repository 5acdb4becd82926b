// The definition of gemm_lowbit: what every level must give, bit for bit.
#include "quest/kernels/gemm_lowbit_task.h"

namespace quest::kernels::detail {

namespace {

int32_t number(const CodeFormat& format, int8_t code) {
  return format.multiplier * code + format.offset;
}

}  // namespace

template <class T>
void gemm_scalar(const CodeFormat& a_format, const int8_t* a, const float* a_units, int64_t m0,
                 int64_t m1, const PackedCodes& w, const float* w_units, int64_t n0, int64_t n1,
                 T* out, int64_t ldo) {
  const int64_t k = w.k;
  for (int64_t m = m0; m < m1; ++m) {
    for (int64_t n = n0; n < n1; ++n) {
      const int8_t* a_row = a + m * k;
      const int8_t* w_row = w.tiles.data() + w.tile_offset + n * k;
      int32_t acc = 0;
      for (int64_t i = 0; i < k; ++i) {
        acc += number(a_format, a_row[i]) * number(w.format, w_row[i]);
      }
      out[m * ldo + n] = T(static_cast<float>(acc) * (a_units[m] * w_units[n]));
    }
  }
}

template void gemm_scalar<float>(const CodeFormat&, const int8_t*, const float*, int64_t, int64_t,
                                 const PackedCodes&, const float*, int64_t, int64_t, float*,
                                 int64_t);
template void gemm_scalar<bfloat16>(const CodeFormat&, const int8_t*, const float*, int64_t,
                                    int64_t, const PackedCodes&, const float*, int64_t, int64_t,
                                    bfloat16*, int64_t);

}  // namespace quest::kernels::detail
