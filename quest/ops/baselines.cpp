#include "quest/ops/baselines.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/min.h>
#include <ATen/ops/round.h>
#include <ATen/ops/sign.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quest/quant/quantizer.h"

namespace quest::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A learned scale that training drove to 0 or below divides by this.
constexpr double kSmallestScale = 1e-8;

// What is rounded with a learned scale s, in units of it: z = (x - offset)/s between low and high,
// q = the level that z is rounded to, y = s q + offset.
//   dy/dx = 1 where z is inside, else 0
//   dy/ds = q - z inside, q outside;  dy/doffset = 0 inside, 1 outside; both times gradient_scale
// The surrogate that these are the exact gradient of: s (z + constant) + offset inside, with
// constant = q - z of the point; s q + offset outside. Where is_sign, dy/ds = q everywhere.
struct Levels {
  double low = 0, high = 0;    // of z
  double shift = 0;            // levels are (round(z * per_unit - shift) + shift) / per_unit
  double per_unit = 1;         // levels in one unit
  double first = 0, last = 0;  // of round(z * per_unit - shift)
  bool is_sign = false;
};

// Codes are `first` to `last`.
at::Tensor code_of(const at::Tensor& z, const Levels& l) {
  return (z * l.per_unit - l.shift).round_().clamp_(l.first, l.last);
}

at::Tensor level_of(const at::Tensor& z, const Levels& l) {
  return (code_of(z, l) + l.shift) / l.per_unit;
}

// x in units of a learned scale.
at::Tensor in_units(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& offset) {
  const at::Tensor s = scale.clamp_min(kSmallestScale);
  return offset.defined() ? (x - offset) / s : x / s;
}

class LearnedScaleFunction : public torch::autograd::Function<LearnedScaleFunction> {
 public:
  // scale (1) or (rows,1); offset (1) or none.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& scale,
                            const std::optional<at::Tensor>& offset, const Levels& levels,
                            double gradient_scale) {
    const at::Tensor s = scale.clamp_min(kSmallestScale);
    const at::Tensor z = in_units(x, scale, offset ? *offset : at::Tensor());
    const at::Tensor q = level_of(z, levels);
    ctx->save_for_backward({z, scale});
    ctx->saved_data["levels"] = std::vector<double>{levels.low,      levels.high,  levels.shift,
                                                    levels.per_unit, levels.first, levels.last};
    ctx->saved_data["is_sign"] = levels.is_sign;
    ctx->saved_data["gradient_scale"] = gradient_scale;
    ctx->saved_data["has_offset"] = offset.has_value();
    return offset ? q * s + *offset : q * s;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &z = saved[0], &scale = saved[1];
    const std::vector<double> l = ctx->saved_data["levels"].toDoubleVector();
    const Levels levels{l[0], l[1], l[2], l[3], l[4], l[5], ctx->saved_data["is_sign"].toBool()};
    const double factor = ctx->saved_data["gradient_scale"].toDouble();
    const at::Tensor& grad = grads[0];
    const at::Tensor inside = (z >= levels.low).logical_and_(z <= levels.high);
    const at::Tensor q = level_of(z, levels);
    const at::Tensor per_value = grad * (levels.is_sign ? q : at::where(inside, q - z, q));
    const at::Tensor grad_scale =
        (scale.dim() == 1 ? per_value.sum().reshape({1}) : per_value.sum(1, /*keepdim=*/true)) *
        factor;
    at::Tensor grad_offset;
    if (ctx->saved_data["has_offset"].toBool()) {
      grad_offset = (grad * inside.logical_not()).sum().reshape({1}) * factor;
    }
    return {grad * inside, grad_scale, grad_offset, at::Tensor(), at::Tensor()};
  }
};

// Codes from `first` to `last` (their values as floats), whose levels are (code + shift) /
// per_unit.
QuantizerCodes as_places(const at::Tensor& codes, double first, double last, double shift = 0,
                         double per_unit = 1) {
  QuantizerCodes out;
  for (double code = first; code <= last; ++code) out.levels.push_back((code + shift) / per_unit);
  out.places = (codes - first).to(at::kShort);
  return out;
}

QuantizerCodes learned_codes(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& offset,
                             const Levels& l) {
  return as_places(code_of(in_units(x, scale, offset), l), l.first, l.last, l.shift, l.per_unit);
}

at::Tensor learned_scale(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& offset,
                         const Levels& levels, double gradient_scale) {
  return LearnedScaleFunction::apply(
      x, scale, offset.defined() ? std::optional<at::Tensor>(offset) : std::nullopt, levels,
      gradient_scale);
}

double value_count(const at::Tensor& x) { return static_cast<double>(x.numel()); }

// LSQ's codes: q_min .. q_max. At 1 bit q_max is 0, which nothing can be divided by: 1 there.
double q_min(int bits) { return -std::exp2(bits - 1); }
double q_max(int bits) { return std::exp2(bits - 1) - 1; }
double divisor(int bits) { return std::max(1.0, q_max(bits)); }
Levels lsq_levels(int bits) {
  return {q_min(bits) + 0.5, q_max(bits) + 0.5, 0.5, 1, q_min(bits), q_max(bits)};
}

class Lsq : public TensorQuantizer {
 public:
  Lsq(const QuantizerPlace& place, bool plus)
      : bits_(place.bits), plus_(plus), step_(learned_tensor(place, {1})) {
    if (plus && !place.is_weight) offset_ = learned_tensor(place, {1});
  }
  at::Tensor forward(const at::Tensor& x) override { return lsq(x, step_, offset_, bits_); }
  std::vector<LearnedTensor> learned() override {
    std::vector<LearnedTensor> all{{"step", step_}};
    if (offset_.defined()) all.push_back({"offset", offset_});
    return all;
  }
  void begin(const at::Tensor& x) override {
    const at::Tensor first = plus_ ? lsq_plus_first_step(x, bits_) : lsq_first_step(x, bits_);
    step_.detach().copy_(first);
    if (offset_.defined()) offset_.detach().copy_(lsq_plus_first_offset(x, first, bits_));
  }
  QuantizerCodes codes(const at::Tensor& x) override {
    return learned_codes(x, step_, offset_, lsq_levels(bits_));
  }

 private:
  int bits_;
  bool plus_;
  at::Tensor step_, offset_;
};

// Of PACT's levels (code - 1/2) step, step = 2c / (2^bits - 1), the codes q_min + 1 .. q_max + 1.
at::Tensor pact_step(const at::Tensor& c, int64_t bits) {
  return 2 * c / (std::exp2(static_cast<double>(bits)) - 1);
}
at::Tensor pact_code(const at::Tensor& x, const at::Tensor& c, int64_t bits) {
  return (x.clamp(-c, c) / pact_step(c, bits) + 0.5).round_();
}

// y = clamp(x, -c, c) rounded to 2^bits centred levels, step 2c / (2^bits - 1).
//   dy/dx = 1 where |x| < c, else 0;  dy/dc = sign(x) where |x| >= c, else 0
// The gradient of the surrogate clamp(x, -c, c).
class PactFunction : public torch::autograd::Function<PactFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& clip,
                            int64_t bits) {
    const at::Tensor c = clip.clamp_min(kSmallestScale);
    const at::Tensor step = pact_step(c, bits);
    ctx->save_for_backward({x, c});
    return pact_code(x, c, bits) * step - step / 2;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor inside = saved[0].abs() < saved[1];
    const at::Tensor grad_clip =
        (grads[0] * saved[0].sign()).masked_fill(inside, 0).sum().reshape({1});
    return {grads[0] * inside, grad_clip, at::Tensor()};
  }
};

class Pact : public TensorQuantizer {
 public:
  explicit Pact(const QuantizerPlace& place)
      : bits_(place.bits), clip_(learned_tensor(place, {1})) {}
  at::Tensor forward(const at::Tensor& x) override { return PactFunction::apply(x, clip_, bits_); }
  std::vector<LearnedTensor> learned() override { return {{"clip", clip_}}; }
  void begin(const at::Tensor& x) override {
    clip_.detach().copy_(optimal_gaussian_scale(bits_) * x.square().mean().sqrt().reshape({1}));
  }
  QuantizerCodes codes(const at::Tensor& x) override {
    return as_places(pact_code(x, clip_.clamp_min(kSmallestScale), bits_), q_min(bits_) + 1,
                     q_max(bits_) + 1, -0.5);
  }

 private:
  int bits_;
  at::Tensor clip_;
};

// Straight-through: the value of q, the gradient of x.
at::Tensor straight_through(const at::Tensor& x, const at::Tensor& q) {
  return q + (x - x.detach());
}

// round(w / g) clamped to -1 .. 1, times g = mean |w| + 1e-5.
class AbsmeanTernary : public TensorQuantizer {
 public:
  at::Tensor forward(const at::Tensor& x) override {
    const at::Tensor g = scale(x.detach());
    return straight_through(x, code(x.detach(), g) * g);
  }
  QuantizerCodes codes(const at::Tensor& x) override { return as_places(code(x, scale(x)), -1, 1); }

 private:
  static at::Tensor scale(const at::Tensor& x) { return x.abs().mean() + 1e-5; }
  static at::Tensor code(const at::Tensor& x, const at::Tensor& g) {
    return (x / g).round_().clamp_(-1, 1);
  }
};

// round(x / s) clamped to -2^(b-1) .. 2^(b-1) - 1, times s = max(largest |x| of the row, 1e-5) /
// (2^(b-1) - 1).
class Absmax : public TensorQuantizer {
 public:
  explicit Absmax(int bits) : bits_(bits) {}
  at::Tensor forward(const at::Tensor& x) override {
    const at::Tensor s = scale(x.detach());
    return straight_through(x, code(x.detach(), s) * s);
  }
  // The lowest code is there for nobody: the scale keeps all values within the others.
  QuantizerCodes codes(const at::Tensor& x) override {
    return as_places(code(x, scale(x)), -q_max(bits_), q_max(bits_));
  }

 private:
  at::Tensor scale(const at::Tensor& rows) const {
    return rows.abs().amax({1}, /*keepdim=*/true).clamp_min(1e-5) / q_max(bits_);
  }
  at::Tensor code(const at::Tensor& rows, const at::Tensor& s) const {
    return (rows / s).round_().clamp_(q_min(bits_), q_max(bits_));
  }

  int bits_;
};

// A learned scale a per row. In units of a: sign (1 bit); the k = 3 or 4 levels of SEQ,
// (round(clamp(z, -1, 1) k/2 - shift) + shift) 2/k, shift 1/2 for 4 levels and 0 for 3; integers
// -2^(b-1) .. 2^(b-1) - 1 (3 and 4 bits). First scale: mean |w| of the row (1 bit), largest |w|
// (SEQ), largest |w| / (2^(b-1) - 1).
class ParetoQ : public TensorQuantizer {
 public:
  ParetoQ(const QuantizerPlace& place, bool ternary)
      : bits_(place.bits), ternary_(ternary), scale_(learned_tensor(place, {place.n, 1})) {}

  at::Tensor forward(const at::Tensor& x) override {
    return learned_scale(x, scale_, {}, levels(), 1 / std::sqrt(value_count(x) * top()));
  }
  std::vector<LearnedTensor> learned() override { return {{"scale", scale_}}; }
  void begin(const at::Tensor& x) override {
    const at::Tensor largest = x.abs().amax({1}, /*keepdim=*/true);
    const at::Tensor first = bits_ == 1               ? x.abs().mean({1}, /*keepdim=*/true)
                             : ternary_ || bits_ == 2 ? largest
                                                      : largest / q_max(bits_);
    scale_.detach().copy_(first.clamp_min(kSmallestScale));
  }
  QuantizerCodes codes(const at::Tensor& x) override {
    return learned_codes(x, scale_, {}, levels());
  }

 private:
  // The largest level, in units of the scale.
  double top() const {
    if (ternary_) return 2.0 / 3;
    return bits_ == 1 ? 1 : bits_ == 2 ? 0.75 : q_max(bits_);
  }
  Levels levels() const {
    if (ternary_) return {-1, 1, 0, 1.5, -1, 1};
    if (bits_ == 1) return {-1, 1, 0.5, 0.5, -1, 0, true};  // (round(z/2 - 1/2) + 1/2) 2
    if (bits_ == 2) return {-1, 1, 0.5, 2, -2, 1};
    return {q_min(bits_), q_max(bits_), 0, 1, q_min(bits_), q_max(bits_)};
  }

  int bits_;
  bool ternary_;
  at::Tensor scale_;
};

template <class Quantizer, class... Arguments>
QuantizerFactory factory(Arguments... arguments) {
  return [=](const QuantizerPlace& place) -> std::unique_ptr<TensorQuantizer> {
    return std::make_unique<Quantizer>(place, arguments...);
  };
}

void register_all() {
  register_quantizer({.name = "lsq", .help = "learned step sizes, levels c + 1/2 (LSQ)"},
                     factory<Lsq>(false));
  register_quantizer({.name = "lsq_plus",
                      .help = "LSQ from the Gaussian optimum, activations with a learned offset"},
                     factory<Lsq>(true));
  register_quantizer({.name = "pact", .help = "learned clipping values (PACT)"}, factory<Pact>());
  register_quantizer({.name = "absmean_ternary",
                      .min_bits = 2,
                      .max_bits = 2,
                      .for_activations = false,
                      .help = "weights -1 0 1 times mean |w|, straight-through (BitNet b1.58's)",
                      .storage_bits = std::log2(3.0)},
                     [](const QuantizerPlace&) { return std::make_unique<AbsmeanTernary>(); });
  register_quantizer(
      {.name = "absmax",
       .min_bits = 2,
       .help = "integers scaled to the largest |x| of a row, straight-through (BitNet's)"},
      [](const QuantizerPlace& place) { return std::make_unique<Absmax>(place.bits); });
  register_quantizer({.name = "paretoq",
                      .min_bits = 1,
                      .max_bits = 4,
                      .for_activations = false,
                      .help = "weights with a learned scale per row: sign, SEQ (2 bits) or LSQ"},
                     factory<ParetoQ>(false));
  register_quantizer({.name = "paretoq_ternary",
                      .min_bits = 2,
                      .max_bits = 2,
                      .for_activations = false,
                      .help = "SEQ with three levels",
                      .storage_bits = std::log2(3.0)},
                     factory<ParetoQ>(true));
  register_recipe({"bitnet", "absmean_ternary", "absmax8",
                   "BitNet b1.58: ternary weights, 8-bit activations, straight-through"});
}

}  // namespace

void register_baselines() {
  static const bool done = (register_all(), true);
  static_cast<void>(done);
}

at::Tensor lsq(const at::Tensor& x, const at::Tensor& step, const at::Tensor& offset, int bits) {
  return learned_scale(x, step, offset, lsq_levels(bits),
                       1 / std::sqrt(value_count(x) * divisor(bits)));
}

at::Tensor lsq_first_step(const at::Tensor& x, int bits) {
  return 2 * x.abs().mean().reshape({1}) / std::sqrt(divisor(bits));
}

at::Tensor lsq_plus_first_step(const at::Tensor& x, int bits) {
  return 2 * optimal_gaussian_scale(bits) * x.square().mean().sqrt().reshape({1}) /
         (std::exp2(bits) - 1);
}

at::Tensor lsq_plus_first_offset(const at::Tensor& x, const at::Tensor& step, int bits) {
  return x.min().reshape({1}) - step * q_min(bits);
}

}  // namespace quest::ops
