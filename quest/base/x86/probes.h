// The compute probes of speed_of_light.h: loops of independent multiply-adds in registers, one for
// each instruction set. Used inside base only.
#pragma once

#include <cstdint>

#include "quest/base/cpu_features.h"
#include "quest/base/speed_of_light.h"

namespace quest::internal {

struct ComputeProbe {
  ComputeType type;
  const char* instructions;
  IsaLevel level;  // the level that has them
  bool (*supported)();
  // Runs `rounds` rounds and returns something that depends on all of them.
  float (*run)(int64_t rounds);
  int64_t operations_per_round;  // multiplications plus additions
};

// Ends with an entry whose run is null.
const ComputeProbe* x86_compute_probes();

}  // namespace quest::internal
