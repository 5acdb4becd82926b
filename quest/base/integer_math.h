// Counts of pieces. Not for files of one instruction-set level (quest/kernels/x86): the linker
// could take their copy of these functions for all.
#pragma once

#include <cstdint>

namespace quest {

// How many pieces of size `divisor` > 0 hold `value` >= 0.
inline int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// The first multiple of `multiple` > 0 from `value` >= 0 on.
inline int64_t round_up(int64_t value, int64_t multiple) {
  return divide_up(value, multiple) * multiple;
}

}  // namespace quest
