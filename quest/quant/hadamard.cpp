#include "quest/quant/hadamard.h"

#include <cmath>

#include "quest/base/error.h"

namespace quest {

int64_t hadamard_block_size(int64_t k) {
  for (int64_t block = 128; block >= 16; block /= 2) {
    if (k > 0 && k % block == 0) return block;
  }
  QUEST_THROW(
      ErrorKind::kUsage,
      "a row of {} values cannot be Hadamard transformed: its length must be a positive multiple "
      "of 16 (of 128 for the paper's block); choose another size or turn the transform off",
      k);
}

template <class Real>
Real hadamard_norm(int64_t block) {
  return static_cast<Real>(1.0 / std::sqrt(static_cast<double>(block)));
}

template <class Real>
void hadamard_transform(std::span<Real> row) {
  const int64_t k = static_cast<int64_t>(row.size());
  const int64_t block = hadamard_block_size(k);
  const Real norm = hadamard_norm<Real>(block);
  for (int64_t start = 0; start < k; start += block) {
    Real* x = row.data() + start;
    for (int64_t stride = 1; stride < block; stride *= 2) {
      for (int64_t i = 0; i < block; ++i) {
        if ((i & stride) != 0) continue;
        const Real a = x[i];
        const Real b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
    for (int64_t i = 0; i < block; ++i) x[i] *= norm;
  }
}

template float hadamard_norm<float>(int64_t);
template double hadamard_norm<double>(int64_t);
template void hadamard_transform<float>(std::span<float>);
template void hadamard_transform<double>(std::span<double>);

}  // namespace quest
