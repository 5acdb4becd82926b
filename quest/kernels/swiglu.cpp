#include "quest/kernels/swiglu.h"

#include "quest/kernels/swiglu_levels.h"

namespace quest::kernels {

namespace {

template <class T>
const detail::SwigluLevel<T>& choose([[maybe_unused]] IsaLevel level) {
#ifdef __x86_64__
  if (level >= IsaLevel::kAvx512) return detail::swiglu_avx512<T>();
  if (level >= IsaLevel::kAvx2) return detail::swiglu_avx2<T>();
#endif
  return detail::swiglu_scalar<T>();
}

}  // namespace

template <class T>
void swiglu(const T* gate_up, int64_t m, int64_t f, T* y, IsaLevel level) {
  choose<T>(level).forward(gate_up, m, f, y);
}

template <class T>
void swiglu_backward(const T* grad_y, const T* gate_up, int64_t m, int64_t f, T* grad_gate_up,
                     IsaLevel level) {
  choose<T>(level).backward(grad_y, gate_up, m, f, grad_gate_up);
}

template void swiglu<float>(const float*, int64_t, int64_t, float*, IsaLevel);
template void swiglu<bfloat16>(const bfloat16*, int64_t, int64_t, bfloat16*, IsaLevel);
template void swiglu_backward<float>(const float*, const float*, int64_t, int64_t, float*,
                                     IsaLevel);
template void swiglu_backward<bfloat16>(const bfloat16*, const bfloat16*, int64_t, int64_t,
                                        bfloat16*, IsaLevel);

}  // namespace quest::kernels
