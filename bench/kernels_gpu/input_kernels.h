// The inputs of linear layers, as they are quantized before a product of many rows.
#pragma once

#include <cstdint>

namespace quest::bench {

// copy_rate in TB/s; m rows. Prints a line for each kernel and row length.
void run_input_kernels(double copy_rate, int64_t m);

}  // namespace quest::bench
