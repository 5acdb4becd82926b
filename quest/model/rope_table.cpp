#include "quest/model/rope_table.h"

#include <algorithm>
#include <limits>
#include <numbers>

#include "quest/base/portable_math.h"

namespace quest {
namespace {

// Frequencies of the D/2 rotary pairs in radians per position.
std::vector<double> rope_frequencies(const LlamaConfig& config, int64_t positions) {
  const int64_t half = config.head_dim / 2;
  const auto dim = static_cast<double>(config.head_dim);
  const RopeScaling& scaling = config.rope_scaling;
  double theta = config.rope_theta;
  if (scaling.type == "dynamic" && positions > config.max_position_embeddings) {
    // NTK-aware: the base grows with the length so that the slowest pair is interpolated.
    const double ratio =
        static_cast<double>(positions) / static_cast<double>(config.max_position_embeddings);
    // (A single pair has nothing slower than itself: its frequency is 1 whatever the base.)
    constexpr double kMax = std::numeric_limits<double>::max();
    const double growth = std::min(scaling.factor * ratio - (scaling.factor - 1.0), kMax);
    if (half > 1) theta *= portable::pow(growth, dim / (dim - 2.0));
    theta = std::min(theta, kMax);
  }
  std::vector<double> frequencies(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    double frequency = portable::pow(theta, -2.0 * static_cast<double>(i) / dim);
    if (scaling.type == "linear") {
      frequency /= scaling.factor;
    } else if (scaling.type == "llama3") {
      const auto length = static_cast<double>(scaling.original_max_position);
      const double turns = length * frequency / (2.0 * std::numbers::pi);
      const double smooth =
          std::clamp((turns - scaling.low_frequency_factor) /
                         (scaling.high_frequency_factor - scaling.low_frequency_factor),
                     0.0, 1.0);
      frequency = (1.0 - smooth) * frequency / scaling.factor + smooth * frequency;
    }
    frequencies[static_cast<size_t>(i)] = frequency;
  }
  return frequencies;
}

}  // namespace

RopeTable make_rope_table(const LlamaConfig& config, int64_t positions) {
  const std::vector<double> frequencies = rope_frequencies(config, positions);
  RopeTable table;
  table.cos.reserve(static_cast<size_t>(positions) * frequencies.size());
  table.sin.reserve(static_cast<size_t>(positions) * frequencies.size());
  for (int64_t position = 0; position < positions; ++position) {
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(position) * frequency;
      const portable::SinCos value = portable::sin_cos(angle);
      table.cos.push_back(static_cast<float>(value.cos));
      table.sin.push_back(static_cast<float>(value.sin));
    }
  }
  return table;
}

}  // namespace quest
