// The paper's experiments over settings of the training, each a sweep: Figures 10 and 12, Table 4,
// and W1A1 over learning rates. They are listed with the others in experiments.h.
#pragma once

#include "quest/cli/experiments.h"

namespace quest::cli {

Experiment fig10_experiment();
Experiment fig12_experiment();
Experiment table4_experiment();
Experiment w1a1_experiment();

}  // namespace quest::cli
