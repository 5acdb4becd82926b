// rope over 16 lanes L (lanes_avx2.h, lanes_avx512.h). Products and sums are rounded one by one, as
// in the scalar definition, so that all levels give the same bits.
#pragma once

#include "quest/kernels/rope_levels.h"

namespace quest::kernels::detail {

template <class L, class T>
void rope_lanes(T* x, int64_t rows, int64_t row_stride, int64_t heads, int64_t head_dim,
                const float* cos, const float* sin, const int32_t* positions, int direction) {
  using F = typename L::F;
  const int64_t half = head_dim / 2;
  const int64_t whole = half / L::kWidth * L::kWidth;
  const int tail = static_cast<int>(half - whole);
  const F sign = L::set1(static_cast<float>(direction));
  for (int64_t row = 0; row < rows; ++row) {
    const float* c = cos + positions[row] * half;
    const float* s = sin + positions[row] * half;
    for (int64_t head = 0; head < heads; ++head) {
      T* first = x + row * row_stride + head * head_dim;
      T* second = first + half;
      for (int64_t i = 0; i < whole; i += L::kWidth) {
        const F a = L::load(first + i), b = L::load(second + i);
        const F cosine = L::load(c + i), sine = L::mul(sign, L::load(s + i));
        L::store(first + i, L::sub(L::mul(a, cosine), L::mul(b, sine)));
        L::store(second + i, L::add(L::mul(b, cosine), L::mul(a, sine)));
      }
      if (tail != 0) {
        const F a = L::load_partial(first + whole, tail), b = L::load_partial(second + whole, tail);
        const F cosine = L::load_partial(c + whole, tail);
        const F sine = L::mul(sign, L::load_partial(s + whole, tail));
        L::store_partial(first + whole, L::sub(L::mul(a, cosine), L::mul(b, sine)), tail);
        L::store_partial(second + whole, L::add(L::mul(b, cosine), L::mul(a, sine)), tail);
      }
    }
  }
}

}  // namespace quest::kernels::detail
