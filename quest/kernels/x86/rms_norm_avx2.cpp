#include "quest/kernels/x86/lanes_avx2.h"
#include "quest/kernels/x86/rms_norm_body.h"

namespace quest::kernels::detail {

template <class T>
const RmsNormLevel<T>& rms_norm_avx2() {
  static constexpr RmsNormLevel<T> kLevel{&rms_norm_lanes<avx2::Lanes, T>,
                                          &rms_norm_backward_lanes<avx2::Lanes, T>};
  return kLevel;
}

template const RmsNormLevel<float>& rms_norm_avx2<float>();
template const RmsNormLevel<bfloat16>& rms_norm_avx2<bfloat16>();

}  // namespace quest::kernels::detail
