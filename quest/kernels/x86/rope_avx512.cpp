#include "quest/kernels/x86/lanes_avx512.h"
#include "quest/kernels/x86/rope_body.h"

namespace quest::kernels::detail {

template <class T>
const RopeLevel<T>& rope_avx512() {
  static constexpr RopeLevel<T> kLevel{&rope_lanes<avx512::Lanes, T>};
  return kLevel;
}

template const RopeLevel<float>& rope_avx512<float>();
template const RopeLevel<bfloat16>& rope_avx512<bfloat16>();

}  // namespace quest::kernels::detail
