#include "quest/kernels/x86/lanes_avx2.h"
#include "quest/kernels/x86/swiglu_body.h"

namespace quest::kernels::detail {

template <class T>
const SwigluLevel<T>& swiglu_avx2() {
  static constexpr SwigluLevel<T> kLevel{&swiglu_lanes<avx2::Lanes, T>,
                                         &swiglu_backward_lanes<avx2::Lanes, T>};
  return kLevel;
}

template const SwigluLevel<float>& swiglu_avx2<float>();
template const SwigluLevel<bfloat16>& swiglu_avx2<bfloat16>();

}  // namespace quest::kernels::detail
