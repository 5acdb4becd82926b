#include "quest/kernels/rms_norm.h"

#include "quest/kernels/rms_norm_levels.h"

namespace quest::kernels {

namespace {

template <class T>
const detail::RmsNormLevel<T>& choose([[maybe_unused]] IsaLevel level) {
#ifdef __x86_64__
  if (level >= IsaLevel::kAvx512) return detail::rms_norm_avx512<T>();
  if (level >= IsaLevel::kAvx2) return detail::rms_norm_avx2<T>();
#endif
  return detail::rms_norm_scalar<T>();
}

}  // namespace

template <class T>
void rms_norm(const T* x, const float* weight, int64_t m, int64_t c, float eps, T* y,
              float* inverse_rms, IsaLevel level) {
  choose<T>(level).forward(x, weight, m, c, eps, y, inverse_rms);
}

template <class T>
void rms_norm_backward(const T* grad_y, const T* x, const float* weight, const float* inverse_rms,
                       const T* residual_grad, int64_t m, int64_t c, T* grad_x, float* grad_weight,
                       IsaLevel level) {
  choose<T>(level).backward(grad_y, x, weight, inverse_rms, residual_grad, m, c, grad_x,
                            grad_weight);
}

template void rms_norm<float>(const float*, const float*, int64_t, int64_t, float, float*, float*,
                              IsaLevel);
template void rms_norm<bfloat16>(const bfloat16*, const float*, int64_t, int64_t, float, bfloat16*,
                                 float*, IsaLevel);
template void rms_norm_backward<float>(const float*, const float*, const float*, const float*,
                                       const float*, int64_t, int64_t, float*, float*, IsaLevel);
template void rms_norm_backward<bfloat16>(const bfloat16*, const bfloat16*, const float*,
                                          const float*, const bfloat16*, int64_t, int64_t,
                                          bfloat16*, float*, IsaLevel);

}  // namespace quest::kernels
