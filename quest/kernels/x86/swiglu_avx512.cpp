#include "quest/kernels/x86/lanes_avx512.h"
#include "quest/kernels/x86/swiglu_body.h"

namespace quest::kernels::detail {

template <class T>
const SwigluLevel<T>& swiglu_avx512() {
  static constexpr SwigluLevel<T> kLevel{&swiglu_lanes<avx512::Lanes, T>,
                                         &swiglu_backward_lanes<avx512::Lanes, T>};
  return kLevel;
}

template const SwigluLevel<float>& swiglu_avx512<float>();
template const SwigluLevel<bfloat16>& swiglu_avx512<bfloat16>();

}  // namespace quest::kernels::detail
