#include "quest/train/guards.h"

#include <algorithm>
#include <cmath>

#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/log.h"

namespace quest::train {

Verdict Guards::check(int64_t step, double loss, double gradient_norm) {
  if (!std::isfinite(loss) || !std::isfinite(gradient_norm)) {
    const std::string what = fmt::format("loss {}, gradient norm {}", loss, gradient_norm);
    QUEST_CHECK(settings_.nonfinite == "skip", ErrorKind::kNumeric,
                "step {}: {}; guards.nonfinite is {} (a lower optimizer.lr may help)", step, what,
                settings_.nonfinite);
    return skip(step, what);
  }
  const double z = settings_.spike == "off" ? 0 : z_score(loss);
  const bool spike = z > settings_.spike_z;
  if (spike) {
    const std::string what = fmt::format(
        "loss {:.4f} is {:.1f} standard deviations above the last {}", loss, z, window_.size());
    QUEST_CHECK(settings_.spike != "stop", ErrorKind::kNumeric,
                "step {}: {}; guards.spike is stop (a lower optimizer.lr may help)", step, what);
    if (settings_.spike == "skip") return skip(step, what);
    log::warn("step {}: {}", step, what);
  }
  skipped_in_a_row_ = 0;
  window_.push_back(loss);
  if (static_cast<int64_t>(window_.size()) > settings_.spike_window) window_.pop_front();
  return spike ? Verdict::kSpike : Verdict::kGood;
}

Verdict Guards::skip(int64_t step, const std::string& what) {
  ++skipped_in_a_row_;
  QUEST_CHECK(skipped_in_a_row_ < settings_.max_skipped, ErrorKind::kNumeric,
              "step {}: {}; {} steps in a row were skipped, guards.max_skipped allows no more (a "
              "lower optimizer.lr may help)",
              step, what, skipped_in_a_row_);
  log::warn("step {} skipped: {}", step, what);
  return Verdict::kSkip;
}

double Guards::z_score(double loss) const {
  const auto n = static_cast<double>(window_.size());
  if (2 * static_cast<int64_t>(window_.size()) < settings_.spike_window) return 0;
  double mean = 0;
  for (const double x : window_) mean += x / n;
  double variance = 0;
  for (const double x : window_) variance += (x - mean) * (x - mean) / (n - 1);
  // A window of equal losses must not make the next rounding error a spike.
  const double deviation = std::max(std::sqrt(variance), 1e-4 * std::abs(mean));
  return deviation > 0 ? (loss - mean) / deviation : 0;
}

double Guards::mean_loss() const {
  double sum = 0;
  for (const double x : window_) sum += x;
  return window_.empty() ? 0 : sum / static_cast<double>(window_.size());
}

nlohmann::json Guards::state() const {
  return {{"window", window_}, {"skipped_in_a_row", skipped_in_a_row_}};
}

void Guards::restore(const nlohmann::json& state) {
  const auto window = json_get<std::vector<double>>(state, "window", "guards");
  window_.assign(window.begin(), window.end());
  skipped_in_a_row_ = json_get<int64_t>(state, "skipped_in_a_row", "guards");
}

}  // namespace quest::train
