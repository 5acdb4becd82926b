#include "quest/kernels/x86/lanes_avx2.h"
#include "quest/kernels/x86/rope_body.h"

namespace quest::kernels::detail {

template <class T>
const RopeLevel<T>& rope_avx2() {
  static constexpr RopeLevel<T> kLevel{&rope_lanes<avx2::Lanes, T>};
  return kLevel;
}

template const RopeLevel<float>& rope_avx2<float>();
template const RopeLevel<bfloat16>& rope_avx2<bfloat16>();

}  // namespace quest::kernels::detail
