// cross_entropy over 16 lanes L (lanes_avx2.h, lanes_avx512.h): two passes over a row.
//
// The first pass goes block by block (a block stays in the first-level cache): its maximum, and the
// sum of exponentials relative to the largest logit so far, rescaled when that grows. The second
// writes the gradient. Exponentials are computed twice: for bfloat16 there is no room to keep them.
#pragma once

#include "quest/kernels/cross_entropy.h"
#include "quest/kernels/cross_entropy_levels.h"
#include "quest/kernels/x86/exp.h"

namespace quest::kernels::detail {

// The running softmax denominator of a row.
template <class L, class T>
struct SoftmaxSum {
  using F = typename L::F;
  static constexpr int64_t kBlock = 1024;

  float maximum = -__builtin_inff();
  F base = L::zero();  // the maximum in every lane; 0 while all logits are -inf
  F sums = L::zero();

  // Lanes of a row's end beyond its last logit count as -inf.
  static inline __attribute__((always_inline)) F load_tail(const T* logits, int tail) {
    const typename L::M valid = L::from_bits(static_cast<uint16_t>((1u << tail) - 1u));
    return L::select(valid, L::load_partial(logits, tail), L::set1(-__builtin_inff()));
  }

  inline __attribute__((always_inline)) void raise_maximum(F lanes) {
    const float block_maximum = L::maximum(lanes);
    if (!(block_maximum > maximum)) return;
    sums = L::mul(sums, exp_lanes<L>(L::set1(maximum - block_maximum)));
    maximum = block_maximum;
    base = L::set1(maximum);
  }

  inline __attribute__((always_inline)) void add(F logits) {
    sums = L::add(sums, exp_lanes<L>(L::sub(logits, base)));
  }

  void add_row(const T* logits, int64_t v) {
    const int64_t whole = v / L::kWidth * L::kWidth;
    const int tail = static_cast<int>(v - whole);
    for (int64_t begin = 0; begin < whole; begin += kBlock) {
      const int64_t end = whole - begin < kBlock ? whole : begin + kBlock;
      F lanes = L::set1(-__builtin_inff());
      for (int64_t i = begin; i < end; i += L::kWidth) lanes = L::max(L::load(logits + i), lanes);
      raise_maximum(lanes);
      for (int64_t i = begin; i < end; i += L::kWidth) add(L::load(logits + i));
    }
    if (tail != 0) {
      const F last = load_tail(logits + whole, tail);
      raise_maximum(L::max(last, L::set1(-__builtin_inff())));
      add(last);
    }
  }
};

// logits = (softmax - onehot) * grad_scale.
template <class L, class T>
void write_gradient(T* logits, int64_t v, int64_t target, const SoftmaxSum<L, T>& softmax,
                    float sum, float grad_scale) {
  using F = typename L::F;
  const F base = softmax.base;
  const F factor = L::set1(grad_scale / sum);
  const int64_t whole = v / L::kWidth * L::kWidth;
  const int tail = static_cast<int>(v - whole);
  const F at_target = L::load_partial(logits + target, 1);
  for (int64_t i = 0; i < whole; i += L::kWidth) {
    L::store(logits + i, L::mul(exp_lanes<L>(L::sub(L::load(logits + i), base)), factor));
  }
  if (tail != 0) {
    const F last = exp_lanes<L>(L::sub(L::load_partial(logits + whole, tail), base));
    L::store_partial(logits + whole, L::mul(last, factor), tail);
  }
  // Once more from the logit, so that the result is rounded to T only once.
  const F probability = L::mul(exp_lanes<L>(L::sub(at_target, base)), L::set1(1.0f / sum));
  const F difference = L::sub(probability, L::set1(1.0f));
  L::store_partial(logits + target, L::mul(difference, L::set1(grad_scale)), 1);
}

template <class L, class T>
void cross_entropy_lanes(T* logits, const int64_t* targets, int64_t m, int64_t v, float grad_scale,
                         float* losses) {
  for (int64_t row = 0; row < m; ++row, logits += v) {
    const int64_t target = targets[row];
    if (target == kIgnoreTarget) {
      losses[row] = 0.0f;
      if (grad_scale != 0.0f) {
        __builtin_memset(static_cast<void*>(logits), 0, sizeof(T) * static_cast<uint64_t>(v));
      }
      continue;
    }
    SoftmaxSum<L, T> softmax;
    softmax.add_row(logits, v);
    const float sum = L::sum(softmax.sums);
    const float at_target = L::sum(L::load_partial(logits + target, 1));
    losses[row] = __builtin_logf(sum) + (softmax.maximum - at_target);
    if (grad_scale != 0.0f) write_gradient<L, T>(logits, v, target, softmax, sum, grad_scale);
  }
}

}  // namespace quest::kernels::detail
