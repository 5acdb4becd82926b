#include "quest/kernels/x86/lanes_avx512.h"
#include "quest/kernels/x86/rms_norm_body.h"

namespace quest::kernels::detail {

template <class T>
const RmsNormLevel<T>& rms_norm_avx512() {
  static constexpr RmsNormLevel<T> kLevel{&rms_norm_lanes<avx512::Lanes, T>,
                                          &rms_norm_backward_lanes<avx512::Lanes, T>};
  return kLevel;
}

template const RmsNormLevel<float>& rms_norm_avx512<float>();
template const RmsNormLevel<bfloat16>& rms_norm_avx512<bfloat16>();

}  // namespace quest::kernels::detail
