// A layer of a 7B model as decode runs it, from the kernels' public headers: where its time goes.
#pragma once

#include <cstdint>
#include <vector>

namespace quest::bench {

// Prints microseconds of a layer for each number of bits: whole, with parts left out, and parts
// alone. `rows` sequences, each at `keys` positions.
void measure_chain(const std::vector<int>& bits, int64_t rows, int64_t keys);

}  // namespace quest::bench
