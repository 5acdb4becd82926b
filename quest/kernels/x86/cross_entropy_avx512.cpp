#include "quest/kernels/x86/cross_entropy_body.h"
#include "quest/kernels/x86/lanes_avx512.h"

namespace quest::kernels::detail {

template <class T>
const CrossEntropyLevel<T>& cross_entropy_avx512() {
  static constexpr CrossEntropyLevel<T> kLevel{&cross_entropy_lanes<avx512::Lanes, T>};
  return kLevel;
}

template const CrossEntropyLevel<float>& cross_entropy_avx512<float>();
template const CrossEntropyLevel<bfloat16>& cross_entropy_avx512<bfloat16>();

}  // namespace quest::kernels::detail
