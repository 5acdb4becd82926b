#include "quest/data/permutation.h"

#include <algorithm>
#include <bit>

#include "quest/base/error.h"
#include "quest/base/philox.h"

namespace quest {
namespace {

constexpr uint64_t kOrderStream = 0x6f72646572;  // keeps these draws apart from others of the seed

// The finalizer of SplitMix64 (Steele et al., OOPSLA 2014).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

Permutation::Permutation(int64_t n, uint64_t seed, uint64_t epoch) : n_(n) {
  QUEST_ASSERT(n >= 1, "n is {}", n);
  const int bits = std::bit_width(static_cast<uint64_t>(n - 1));
  half_bits_ = std::max(1, (bits + 1) / 2);
  const Philox random(seed, kOrderStream);
  for (int round = 0; round < kRounds; round += 2) {
    const auto draw = random.block(epoch * (kRounds / 2) + static_cast<uint64_t>(round / 2));
    keys_[static_cast<size_t>(round)] = static_cast<uint64_t>(draw[0]) << 32 | draw[1];
    keys_[static_cast<size_t>(round + 1)] = static_cast<uint64_t>(draw[2]) << 32 | draw[3];
  }
}

int64_t Permutation::operator()(int64_t index) const {
  QUEST_ASSERT(index >= 0 && index < n_, "index {} of {}", index, n_);
  const uint64_t half_mask = (uint64_t{1} << half_bits_) - 1;
  auto value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half_bits_;
    uint64_t right = value & half_mask;
    for (const uint64_t key : keys_) {
      const uint64_t next = left ^ (mix(right ^ key) & half_mask);
      left = right;
      right = next;
    }
    value = left << half_bits_ | right;
  } while (value >= static_cast<uint64_t>(n_));
  return static_cast<int64_t>(value);
}

}  // namespace quest
