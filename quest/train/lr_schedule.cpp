#include "quest/train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "quest/base/error.h"

namespace quest::train {
namespace {

constexpr double kPi = std::numbers::pi;

// PyTorch's annealing functions, in its order of operations.
double anneal_cos(double from, double to, double part) {
  return to + (from - to) / 2.0 * (std::cos(kPi * part) + 1);
}
double anneal_linear(double from, double to, double part) { return (to - from) * part + from; }

int64_t part_of(double fraction, int64_t total) {
  return static_cast<int64_t>(std::llround(fraction * static_cast<double>(total)));
}

}  // namespace

LrSchedule::LrSchedule(const TrainConfig::Schedule& settings, double lr, int64_t total_steps)
    : settings_(settings),
      lr_(lr),
      start_(lr / settings.div_factor),
      end_(start_ / settings.final_div_factor),
      total_(total_steps),
      warmup_(settings.warmup_steps > 0 ? settings.warmup_steps
                                        : part_of(settings.warmup_fraction, total_steps)),
      decay_(settings.name == "wsd" ? part_of(settings.decay_fraction, total_steps) : 0),
      constant_(settings.name == "cos_inf" ? part_of(settings.constant_fraction, total_steps) : 0) {
  QUEST_CHECK(total_steps > 0, ErrorKind::kUsage, "a run of {} steps has no schedule", total_steps);
  QUEST_CHECK(warmup_ + decay_ + constant_ <= total_, ErrorKind::kUsage,
              "schedule {}: {} steps of warm-up, {} of decay and {} constant do not fit into {} "
              "steps",
              settings.name, warmup_, decay_, constant_, total_);
}

double LrSchedule::at(int64_t step) const {
  step = std::clamp<int64_t>(step, 0, total_ - 1);
  if (settings_.name == "onecycle" || settings_.name == "linear") return one_cycle(step);
  if (step < warmup_) return warmup_line(step);
  if (settings_.name == "cos") return cosine_to_end(step, total_);
  if (settings_.name == "cos_inf") return cosine_to_end(step, total_ - constant_);
  if (settings_.name == "wsd") return stable_decay(step);
  return lr_;
}

double LrSchedule::one_cycle(int64_t step) const {
  const auto anneal = settings_.name == "onecycle" ? anneal_cos : anneal_linear;
  const double x = static_cast<double>(step);
  // A fraction is taken as it is, not rounded to steps: as PyTorch does.
  const double top = settings_.warmup_steps > 0
                         ? static_cast<double>(settings_.warmup_steps) - 1
                         : settings_.warmup_fraction * static_cast<double>(total_) - 1;
  const double last = static_cast<double>(total_ - 1);
  if (x <= top && top > 0) return anneal(start_, lr_, x / top);
  return last > top ? anneal(lr_, end_, (x - top) / (last - top)) : lr_;
}

double LrSchedule::warmup_line(int64_t step) const {
  return anneal_linear(start_, lr_, static_cast<double>(step) / static_cast<double>(warmup_));
}

double LrSchedule::cosine_to_end(int64_t step, int64_t last) const {
  if (step >= last) return end_;
  return anneal_cos(lr_, end_,
                    static_cast<double>(step - warmup_) / static_cast<double>(last - warmup_));
}

double LrSchedule::stable_decay(int64_t step) const {
  const int64_t begin = total_ - decay_;
  if (step < begin) return lr_;
  const double x = static_cast<double>(step - begin) / static_cast<double>(decay_);
  const double low = settings_.decay_final_factor;
  const double line = low + (1 - low) * (1 - x);
  const double cosine = low + (1 - low) * (1 + std::cos(kPi * x)) / 2;
  const std::string& shape = settings_.decay_shape;
  if (shape == "cosine") return lr_ * cosine;
  if (shape == "mirror_cosine") return lr_ * (2 * line - cosine);
  if (shape == "exp") return lr_ * std::pow(low, x);
  if (shape == "square") return lr_ * (low + (1 - low) * (1 - x * x));
  if (shape == "sqrt") return lr_ * (low + (1 - low) * (1 - std::sqrt(x)));
  return lr_ * line;
}

}  // namespace quest::train
