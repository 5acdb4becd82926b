// attention's functions on rows with AVX-512 and AVX512-BF16, and its tasks with tiles of either
// kind. Include only from x86/attention_*.cpp.
#pragma once

#include "quest/kernels/x86/amx_bf16_tiles.h"
#include "quest/kernels/x86/attention_amx_backward.h"
#include "quest/kernels/x86/attention_amx_forward.h"
#include "quest/kernels/x86/lane.h"
#include "quest/kernels/x86/lanes_avx512.h"

namespace quest::kernels::detail {
namespace {

template <class Instructions>
struct AttentionTiles : Bf16TilesOn<Instructions> {
  using L = avx512::Lanes;

  // 2^x: 2^floor(x) by the exponent, 2^(x - floor(x)) by a polynomial that is 1 at 0 (minimax of
  // the relative error, 8.3e-8; 1.5e-7 with its roundings).
  QUEST_LANE __m512 power_of_two(__m512 x) {
    const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(0.00186713005f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.00901703071f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0557999127f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.240164444f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.693151295f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, x);
  }
  QUEST_LANE void store_rounded(bfloat16* out, __m512 first, __m512 second) {
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(second, first));
  }
  // Rounded, or as three pieces a block apart.
  template <int kPieces>
  QUEST_LANE void store_pieces(bfloat16* out, __m512 first, __m512 second) {
    if constexpr (kPieces == 1) {
      store_rounded(out, first, second);
    } else {
      Bf16TilesOn<Instructions>::store_split(first, second, out, out + kBlock, out + 2 * kBlock);
    }
  }

  QUEST_LANE void raise_maximum(const float* scores, float* maxima) {
    const __m512 of_row = _mm512_max_ps(_mm512_loadu_ps(scores), _mm512_loadu_ps(scores + 16));
    _mm512_storeu_ps(maxima, _mm512_max_ps(of_row, _mm512_loadu_ps(maxima)));
  }
  QUEST_LANE float largest(const float* maxima) { return L::maximum(_mm512_loadu_ps(maxima)); }
  QUEST_LANE float total(const float* totals) { return L::sum(_mm512_loadu_ps(totals)); }

  template <int kPieces>
  QUEST_LANE void weigh(const float* scores, float factor, float offset, float* totals,
                        bfloat16* weights) {
    const __m512 f = _mm512_set1_ps(factor), o = _mm512_set1_ps(offset);
    const __m512 first = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores), f, o));
    const __m512 second = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores + 16), f, o));
    _mm512_storeu_ps(totals, _mm512_add_ps(_mm512_loadu_ps(totals), _mm512_add_ps(first, second)));
    store_pieces<kPieces>(weights, first, second);
  }

  template <int kPieces>
  QUEST_LANE void differentiate(const float* scores, const float* grad_weights, float factor,
                                const float* offsets, const float* deltas, bfloat16* weights,
                                bfloat16* slopes) {
    const __m512 f = _mm512_set1_ps(factor);
    __m512 w[2], s[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      w[i] = power_of_two(
          _mm512_fmsub_ps(_mm512_loadu_ps(scores + 16 * i), f, _mm512_loadu_ps(offsets + 16 * i)));
      s[i] = _mm512_mul_ps(w[i], _mm512_sub_ps(_mm512_loadu_ps(grad_weights + 16 * i),
                                               _mm512_loadu_ps(deltas + 16 * i)));
    }
    store_pieces<kPieces>(weights, w[0], w[1]);
    store_pieces<kPieces>(slopes, s[0], s[1]);
  }

  QUEST_LANE void scale(const float* sums, float factor, bfloat16* out) {
    const __m512 f = _mm512_set1_ps(factor);
    store_rounded(out, _mm512_mul_ps(_mm512_loadu_ps(sums), f),
                  _mm512_mul_ps(_mm512_loadu_ps(sums + 16), f));
  }
  QUEST_LANE void scale(const float* sums, float factor, float* out) {
    const __m512 f = _mm512_set1_ps(factor);
    _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_loadu_ps(sums), f));
    _mm512_storeu_ps(out + 16, _mm512_mul_ps(_mm512_loadu_ps(sums + 16), f));
  }

  template <class T>
  QUEST_LANE float dot(const T* a, const T* b, int64_t count) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; i += 16) {
      sum = _mm512_fmadd_ps(L::load(a + i), L::load(b + i), sum);
    }
    return L::sum(sum);
  }
};

// Denormals are zero while it lives: results that underflow (weights of far keys) would cost a
// hundred cycles each, and the tile instructions take them as zero anyway.
class WithoutDenormals {
 public:
  WithoutDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }  // FTZ, DAZ
  ~WithoutDenormals() { _mm_setcsr(before_); }
  WithoutDenormals(const WithoutDenormals&) = delete;
  WithoutDenormals& operator=(const WithoutDenormals&) = delete;

 private:
  unsigned before_;
};

// f(memory) with tiles and memory of this kind.
template <class Tiles, class Memory, class T, class F>
void with_tiles(const Attention<T>& attention, const F& f) {
  Arena size(nullptr);
  static_cast<void>(Memory(attention, size));
  const Scratch<char> scratch(size.bytes());
  Arena arena(scratch.get());
  const Memory memory(attention, arena);
  const WithoutDenormals without_denormals;
  Tiles::begin();
  f(memory);
  Tiles::end();
}

template <class Instructions, class T>
void run_forward(const Attention<T>& attention, const AttentionPlan& plan, int64_t begin,
                 int64_t end) {
  using Tiles = AttentionTiles<Instructions>;
  with_tiles<Tiles, ForwardMemory<T>>(attention, [&](const ForwardMemory<T>& memory) {
    for (int64_t task = begin; task < end; ++task) {
      forward_task<Tiles>(attention, plan, task, memory);
    }
  });
}

template <class Instructions, class T>
void run_backward(const Attention<T>& attention, const AttentionGrads<T>& grads, int64_t begin,
                  int64_t end) {
  using Tiles = AttentionTiles<Instructions>;
  with_tiles<Tiles, BackwardMemory<T>>(attention, [&](const BackwardMemory<T>& memory) {
    for (int64_t task = begin; task < end; ++task) {
      backward_task<Tiles>(attention, grads, task, memory);
    }
  });
}

}  // namespace
}  // namespace quest::kernels::detail
