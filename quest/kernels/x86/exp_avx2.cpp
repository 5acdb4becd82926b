#include "quest/kernels/x86/exp.h"
#include "quest/kernels/x86/lanes_avx2.h"

namespace quest::kernels::detail {

void exp_16_avx2(const float* x, float* y) {
  using L = avx2::Lanes;
  L::store(y, exp_lanes<L>(L::load(x)));
}

}  // namespace quest::kernels::detail
