#include "quest/train/side_statistics.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/autograd.h>

#include "quest/base/error.h"
#include "quest/base/six_digits.h"
#include "quest/ops/quantized_tensor.h"
#include "quest/quant/grid_statistics.h"

namespace quest::train {
namespace {

constexpr int64_t kValuesAtOnce = 1 << 20;  // bounds the memory for values in FP64
// Of the histogram of values: where it ends, in RMS, and buckets per RMS (a power of two, so that
// limits are exact).
constexpr int64_t kEdge = 6, kPerUnit = 8, kBuckets = 2 * kEdge * kPerUnit;
constexpr int64_t kSmallestBlock = 16;  // of the Hadamard transform

// Bits that are set.
int64_t count_bits(const at::Tensor& bytes) {
  at::Tensor v = bytes - (bytes.bitwise_right_shift(1)).bitwise_and(0x55);
  v = v.bitwise_and(0x33) + v.bitwise_right_shift(2).bitwise_and(0x33);
  v = (v + v.bitwise_right_shift(4)).bitwise_and(0x0f);
  return v.sum(at::kLong).item<int64_t>();
}

at::Tensor rotate(const at::Tensor& x, const std::string& name) {
  QuantSpec transform;
  transform.hadamard = true;
  return ops::quantize(transform, x, at::kFloat, /*want_mask=*/false, name).values;
}

// How often each of [0, size) is there.
template <class Counts>
void add_counts(const at::Tensor& indices, Counts& counts) {
  const at::Tensor found =
      at::bincount(indices.view(-1), {}, static_cast<int64_t>(counts.size())).cpu();
  for (size_t i = 0; i < counts.size(); ++i) {
    counts[i] += static_cast<typename Counts::value_type>(found.const_data_ptr<int64_t>()[i]);
  }
}

}  // namespace

SideStatistics::SideStatistics(const QuantSpec& spec, std::string name, Values values, Codes codes)
    : spec_(spec),
      name_(std::move(name)),
      registered_(std::move(values)),
      registered_codes_(std::move(codes)) {
  QUEST_ASSERT((spec.registered != nullptr) == static_cast<bool>(registered_),
               "values of {} come from its quantizer", to_string(spec));
  histogram_.tag = "diagnostics.values/" + name_;
  for (int64_t i = 1; i <= kBuckets; ++i) {
    histogram_.limits.push_back(static_cast<double>(i) / kPerUnit - kEdge);
  }
  histogram_.counts.resize(kBuckets);
  if (ops::has_code_grid(spec_)) {
    levels_ = numbers_in_order(spec_);
    counts_.resize(levels_.size());
  }
}

void SideStatistics::Kurtosis::add(const at::Tensor& x) {
  const at::Tensor squares = x.square();
  const at::Tensor power = squares.mean(-1).square();  // (M)
  const at::Tensor some = power > 0;
  sum += at::where(some, squares.square().mean(-1) / power, 0).sum().item<double>();
  rows += some.sum().item<int64_t>();
}

void SideStatistics::add(const at::Tensor& x, std::vector<uint8_t>* mask_bits) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = x.detach().reshape({-1, x.size(-1)});
  // Whole: some scales are of the whole tensor.
  const at::Tensor values = registered_ ? add_registered(rows) : at::Tensor();
  const int64_t at_once = std::max<int64_t>(1, kValuesAtOnce / rows.size(1));
  for (int64_t row = 0; row < rows.size(0); row += at_once) {
    const int64_t count = std::min(at_once, rows.size(0) - row);
    add_rows(rows.narrow(0, row, count).to(at::kFloat).contiguous(),
             registered_ ? values.narrow(0, row, count) : values, mask_bits);
  }
}

at::Tensor SideStatistics::add_registered(const at::Tensor& rows) {
  at::Tensor values = add_passing(rows);
  if (registered_codes_) add_registered_codes(registered_codes_(rows));
  return values;
}

at::Tensor SideStatistics::add_passing(const at::Tensor& rows) {
  const at::AutoGradMode enable(true);
  const at::Tensor x = rows.detach().to(at::kFloat).clone().set_requires_grad(true);
  const at::Tensor values = registered_(x);
  if (!values.requires_grad()) return values;  // nothing passes
  // Not backward(): the gradients of what the quantizer learns stay as they are.
  at::Tensor passed = torch::autograd::grad({values.sum()}, {x}).front();
  const at::NoGradGuard no_grad;
  if (spec_.hadamard) passed = rotate(passed.contiguous(), name_);  // of the value that is rounded
  constexpr double kNothing = 1e-3;  // far above what rotating there and back leaves of zero
  passing_ += (passed.abs() > kNothing).sum().item<int64_t>();
  return values.detach();
}

void SideStatistics::add_rows(const at::Tensor& x, const at::Tensor& values,
                              std::vector<uint8_t>* mask_bits) {
  values_ += x.numel();
  ops::QuantizedTensor q;
  if (values.defined()) {
    q.values = values;
  } else {
    q = ops::quantize(spec_, x, at::kFloat, /*want_mask=*/true, name_);
  }
  const bool can_rotate = x.size(1) % kSmallestBlock == 0;
  at::Tensor rotated;  // f64
  if (can_rotate) {
    rotated = rotate(x, name_).to(at::kDouble);
    rotated_.add(rotated);
  }
  const at::Tensor plain = x.to(at::kDouble);
  plain_.add(plain);
  const at::Tensor& xh = spec_.hadamard ? rotated : plain;
  add_values(xh);
  if (spec_.is_quantized()) {
    const at::Tensor rounded_values = ops::dequantize(spec_, q, at::kFloat).to(at::kDouble);
    error_ += (rounded_values - xh).square().sum().item<double>();
    power_ += xh.square().sum().item<double>();
  }
  if (q.has_codes()) add_codes(q.codes);
  if (q.mask.defined()) {
    passing_ += count_bits(q.mask);
    if (mask_bits != nullptr) {
      const at::Tensor bytes = q.mask.cpu().contiguous();
      const auto* begin = bytes.const_data_ptr<uint8_t>();
      mask_bits->insert(mask_bits->end(), begin, begin + bytes.numel());
    }
  }
}

void SideStatistics::add_codes(const at::Tensor& codes) {
  constexpr int kLowest = -128;
  std::array<int64_t, 256> all{};
  add_counts(codes.to(at::kLong) - kLowest, all);
  const std::vector<int> order = codes_in_order(spec_);
  for (size_t i = 0; i < order.size(); ++i) {
    counts_[i] += all[static_cast<size_t>(order[i] - kLowest)];
  }
}

void SideStatistics::add_registered_codes(const ops::QuantizerCodes& codes) {
  if (codes.levels.empty()) return;
  QUEST_ASSERT(levels_.empty() || levels_ == codes.levels, "{}: other levels than before", name_);
  levels_ = codes.levels;
  counts_.resize(levels_.size());
  const at::Tensor places = codes.places.to(at::kLong);
  const auto low = places.min().item<int64_t>(), high = places.max().item<int64_t>();
  QUEST_CHECK(low >= 0 && high < static_cast<int64_t>(levels_.size()), ErrorKind::kNumeric,
              "{}: codes of {} are {} to {} and it has {} levels: values that are not finite, or a "
              "quantizer whose codes() is wrong",
              name_, to_string(spec_), low, high, levels_.size());
  add_counts(places, counts_);
}

void SideStatistics::add_values(const at::Tensor& xh) {
  const at::Tensor rms = xh.square().mean(-1, /*keepdim=*/true).sqrt();
  // A row of zeros has no RMS to be measured in: zeros they stay.
  const at::Tensor z = at::nan_to_num(xh / at::where(rms > 0, rms, 1));
  // Buckets hold what is at most their limit.
  const at::Tensor bucket = ((z + kEdge) * kPerUnit).ceil() - 1;
  add_counts(bucket.clamp(0, kBuckets - 1).to(at::kLong), histogram_.counts);
  const double low = z.min().item<double>(), high = z.max().item<double>();
  histogram_.min = histogram_.count > 0 ? std::min(histogram_.min, low) : low;
  histogram_.max = histogram_.count > 0 ? std::max(histogram_.max, high) : high;
  histogram_.count += static_cast<double>(z.numel());
  histogram_.sum += z.sum().item<double>();
  histogram_.sum_squares += z.square().sum().item<double>();
}

nlohmann::ordered_json SideStatistics::json() const {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  const double all = static_cast<double>(values_);
  if (values_ == 0) return out;
  if (ops::has_gradient_mask(spec_) || registered_) {
    out["masked"] = six_digits(static_cast<double>(values_ - passing_) / all);
    if (const auto expected = gaussian_masked_fraction(spec_)) {
      out["masked_gaussian"] = six_digits(*expected);
    }
  }
  if (spec_.is_quantized() && power_ > 0) out["relative_error"] = six_digits(error_ / power_);
  if (plain_.rows > 0) {
    out["kurtosis"] = six_digits(plain_.sum / static_cast<double>(plain_.rows));
  }
  if (rotated_.rows > 0) {
    out["kurtosis_rotated"] = six_digits(rotated_.sum / static_cast<double>(rotated_.rows));
  }
  if (!levels_.empty()) {
    std::vector<double> use;
    for (const int64_t count : counts_) use.push_back(six_digits(static_cast<double>(count) / all));
    out["dead_codes"] = std::count(counts_.begin(), counts_.end(), 0);
    out["code_use"] = use;
  }
  return out;
}

std::vector<Histogram> SideStatistics::histograms() const {
  std::vector<Histogram> out = {histogram_};
  if (levels_.empty()) return out;
  Histogram h;
  h.tag = "diagnostics.codes/" + name_;
  h.min = levels_.front();
  h.max = levels_.back();
  for (size_t i = 0; i < levels_.size(); ++i) {
    const double count = static_cast<double>(counts_[i]);
    h.limits.push_back(i + 1 == levels_.size() ? levels_[i] : (levels_[i] + levels_[i + 1]) / 2);
    h.counts.push_back(count);
    h.count += count;
    h.sum += count * levels_[i];
    h.sum_squares += count * levels_[i] * levels_[i];
  }
  out.push_back(std::move(h));
  return out;
}

}  // namespace quest::train
