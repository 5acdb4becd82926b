#include "quest/ops/tensor_quantizer.h"

#include <cmath>
#include <map>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quest/base/error.h"
#include "quest/ops/quantized_tensor.h"

namespace quest::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::map<const RegisteredQuantizer*, QuantizerFactory>& factories() {
  static std::map<const RegisteredQuantizer*, QuantizerFactory> all;
  return all;
}

QuantSpec rotation() {
  QuantSpec spec;
  spec.hadamard = true;
  return spec;
}

// A spec is data that autograd cannot hold; it travels as its text.
class FakeQuantizeFunction : public torch::autograd::Function<FakeQuantizeFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const std::string& spec_text,
                            at::ScalarType type, const std::string& name, bool want_mask) {
    const QuantSpec spec = spec_from_string(spec_text);
    const QuantizedTensor q = quantize(spec, x.contiguous(), type, want_mask, name);
    ctx->save_for_backward({q.mask});
    ctx->saved_data["spec"] = spec_text;
    ctx->saved_data["type"] = x.scalar_type();
    return dequantize(spec, q, type);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const QuantSpec spec = spec_from_string(ctx->saved_data["spec"].toStringRef());
    // The mask works in place: not on what autograd may have given to others too.
    const at::Tensor grad = quantize_backward(spec, ctx->get_saved_variables()[0],
                                              grads[0].clone(at::MemoryFormat::Contiguous));
    return {grad.to(ctx->saved_data["type"].toScalarType()), at::Tensor(), at::Tensor(),
            at::Tensor(), at::Tensor()};
  }
};

}  // namespace

void register_quantizer(RegisteredQuantizer entry, QuantizerFactory factory) {
  factories()[register_quantizer_name(std::move(entry))] = std::move(factory);
}

at::Tensor learned_tensor(const QuantizerPlace& place, std::vector<int64_t> shape) {
  return at::full(shape, std::nan(""), place.master).set_requires_grad(true);
}

RegisteredSide::RegisteredSide(const QuantSpec& spec, const QuantizerPlace& place, std::string name)
    : spec_(spec),
      master_(c10::typeMetaToScalarType(place.master.dtype())),
      name_(std::move(name)) {
  const auto found = factories().find(spec.registered);
  QUEST_ASSERT(found != factories().end(), "{} has a name and no factory", to_string(spec));
  quantizer_ = found->second(place);
}

std::vector<LearnedTensor> RegisteredSide::learned() const {
  std::vector<LearnedTensor> all = quantizer_->learned();
  for (LearnedTensor& t : all) t.name = name_ + "." + t.name;
  return all;
}

bool RegisteredSide::has_values() const {
  for (const LearnedTensor& t : quantizer_->learned()) {
    if (!at::isfinite(t.value.detach()).all().item<bool>()) return false;
  }
  return true;
}

// What the quantizer sees.
at::Tensor RegisteredSide::rotated_rows(const at::Tensor& x) const {
  const at::Tensor rows = x.to(master_);
  return spec_.hadamard ? hadamard(rows) : rows;
}

at::Tensor RegisteredSide::values(const at::Tensor& x, at::ScalarType compute, bool beginning) {
  const at::Tensor rows = rotated_rows(x);
  if (!ready_ && !has_values()) {
    QUEST_CHECK(beginning, ErrorKind::kUsage,
                "{}: {} has no learned values yet: train the model, or load a checkpoint that was "
                "trained with this quantizer",
                name_, to_string(spec_));
    const at::NoGradGuard no_grad;
    quantizer_->begin(rows.detach());
    QUEST_CHECK(has_values(), ErrorKind::kNumeric,
                "{}: the first values of {} are not finite; look at the data and the weights",
                name_, to_string(spec_));
  }
  ready_ = true;
  return quantizer_->forward(rows).to(compute);
}

QuantizerCodes RegisteredSide::codes(const at::Tensor& x) {
  QUEST_ASSERT(ready_, "{}: codes before values", name_);
  const at::NoGradGuard no_grad;
  return quantizer_->codes(rotated_rows(x));
}

at::Tensor hadamard(const at::Tensor& x) {
  return fake_quantize(rotation(), x, x.scalar_type(), "hadamard");
}

at::Tensor fake_quantize(const QuantSpec& spec, const at::Tensor& x, at::ScalarType type,
                         std::string_view name) {
  return FakeQuantizeFunction::apply(x, to_string(spec), type, std::string(name),
                                     at::GradMode::is_enabled() && x.requires_grad());
}

}  // namespace quest::ops
