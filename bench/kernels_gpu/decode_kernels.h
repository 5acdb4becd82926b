// The kernels between the products of a decode step, beside the copy rate of the GPU.
#pragma once

namespace quest::bench {

// copy_rate: TB/s. Prints a table; each kernel is launched many times in one CUDA graph, on other
// memory each time, since alone it takes less than a launch from the host.
void run_decode_kernels(double copy_rate);

}  // namespace quest::bench
