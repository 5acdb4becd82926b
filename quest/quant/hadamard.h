// Block-diagonal orthonormal Hadamard transform along a row, by butterflies.
//
// Sylvester order, blocks of 128 where 128 divides K, else the largest power of two >= 16 that
// does. Symmetric and its own inverse. Fixed order, so that every kernel gives the same bits:
// stages of stride 1, 2, 4, ..., block/2, each (a, b) -> (a + b, a - b); then one product with
// block^-0.5.
#pragma once

#include <cstdint>
#include <span>

namespace quest {

// 128, 64, 32 or 16; throws kUsage with K if none divides it.
int64_t hadamard_block_size(int64_t k);
// 1/sqrt(block), rounded to Real once.
template <class Real>
Real hadamard_norm(int64_t block);

// In place over all blocks of a row. Real is float or double.
template <class Real>
void hadamard_transform(std::span<Real> row);

}  // namespace quest
