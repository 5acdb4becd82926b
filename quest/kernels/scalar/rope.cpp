// The definition of rope. Every level gives the same bits.
#include "quest/kernels/rope_levels.h"

namespace quest::kernels::detail {

namespace {

template <class T>
void rotate(T* x, int64_t rows, int64_t row_stride, int64_t heads, int64_t head_dim,
            const float* cos, const float* sin, const int32_t* positions, int direction) {
  const int64_t half = head_dim / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const float* c = cos + positions[row] * half;
    const float* s = sin + positions[row] * half;
    for (int64_t head = 0; head < heads; ++head) {
      T* first = x + row * row_stride + head * head_dim;
      T* second = first + half;
      for (int64_t i = 0; i < half; ++i) {
        const float a = static_cast<float>(first[i]);
        const float b = static_cast<float>(second[i]);
        const float turned = static_cast<float>(direction) * s[i];
        first[i] = T(a * c[i] - b * turned);
        second[i] = T(b * c[i] + a * turned);
      }
    }
  }
}

}  // namespace

template <class T>
const RopeLevel<T>& rope_scalar() {
  static constexpr RopeLevel<T> kLevel{&rotate<T>};
  return kLevel;
}

template const RopeLevel<float>& rope_scalar<float>();
template const RopeLevel<bfloat16>& rope_scalar<bfloat16>();

}  // namespace quest::kernels::detail
