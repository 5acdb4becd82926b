// The kernels of a training step at the shapes of a model.
#pragma once

#include "bench/kernels_gpu/table.h"
#include <cstdint>
#include <string>

namespace quest::bench {

// preset: "30M", ... "1.6B". Prints a line for each kernel.
void run_train_kernels(const Table& table, const std::string& preset, int64_t batch,
                       int64_t sequence);

}  // namespace quest::bench
