#include "quest/kernels/cross_entropy.h"

#include "quest/kernels/cross_entropy_levels.h"

namespace quest::kernels {

namespace {

template <class T>
const detail::CrossEntropyLevel<T>& choose([[maybe_unused]] IsaLevel level) {
#ifdef __x86_64__
  if (level >= IsaLevel::kAvx512) return detail::cross_entropy_avx512<T>();
  if (level >= IsaLevel::kAvx2) return detail::cross_entropy_avx2<T>();
#endif
  return detail::cross_entropy_scalar<T>();
}

}  // namespace

template <class T>
void cross_entropy(T* logits, const int64_t* targets, int64_t m, int64_t v, float grad_scale,
                   float* losses, IsaLevel level) {
  choose<T>(level).loss_and_gradient(logits, targets, m, v, grad_scale, losses);
}

template void cross_entropy<float>(float*, const int64_t*, int64_t, int64_t, float, float*,
                                   IsaLevel);
template void cross_entropy<bfloat16>(bfloat16*, const int64_t*, int64_t, int64_t, float, float*,
                                      IsaLevel);

}  // namespace quest::kernels
