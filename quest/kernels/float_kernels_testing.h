// Help for the tests of the floating-point kernels: data, levels, bounds.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::testing {

// One rounding to T changes a value by at most this fraction of it.
template <class T>
constexpr double rounding_error() {
  return std::is_same_v<T, float> ? 0x1p-24 : 0x1p-8;
}
inline constexpr double kFloatEps = 0x1p-24;

template <class T>
std::vector<T> random_values(int64_t count, unsigned seed, double spread = 1.0) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, spread);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) value = T(static_cast<float>(normal(random)));
  return values;
}

template <class T>
bool same_bits(const std::vector<T>& x, const std::vector<T>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0;
}

// Levels above scalar that this CPU has and for which these kernels have code of their own.
inline std::vector<IsaLevel> vector_levels() {
  std::vector<IsaLevel> levels;
  for (const IsaLevel level : available_isa_levels()) {
    if (level == IsaLevel::kAvx2 || level == IsaLevel::kAvx512) levels.push_back(level);
  }
  return levels;
}

// (f(x + h) - f(x - h)) / 2h for one coordinate of a function in double.
inline double finite_difference(const std::function<double(const std::vector<double>&)>& f,
                                std::vector<double> x, size_t i, double h = 1e-5) {
  const double x_i = x[i];
  x[i] = x_i + h;
  const double up = f(x);
  x[i] = x_i - h;
  return (up - f(x)) / (2 * h);
}

}  // namespace quest::testing
