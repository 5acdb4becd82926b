#include "quest/nn/recompute.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quest/base/error.h"

namespace quest::nn {
namespace {

using torch::autograd::AutogradContext;
using Part = std::function<variable_list(const variable_list&)>;

class Holder : public torch::CustomClassHolder {
 public:
  explicit Holder(Part f) : part(std::move(f)) {}
  Part part;
};

class RecomputeFunction : public torch::autograd::Function<RecomputeFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, at::TensorList inputs, const Part& f) {
    const variable_list all(inputs.begin(), inputs.end());
    ctx->save_for_backward(all);
    ctx->saved_data["part"] = c10::IValue::make_capsule(c10::make_intrusive<Holder>(f));
    return f(all);  // the grad mode is off here: nothing inside is kept
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto holder = ctx->saved_data["part"].toCapsule();
    const Part& f = static_cast<Holder*>(holder.get())->part;
    variable_list inputs;
    for (const at::Tensor& x : ctx->get_saved_variables()) {
      inputs.push_back(x.detach().requires_grad_(x.requires_grad()));
    }
    const at::AutoGradMode enable(true);
    const variable_list outputs = f(inputs);
    variable_list roots, root_grads;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (outputs[i].requires_grad() && grads[i].defined()) {
        roots.push_back(outputs[i]);
        root_grads.push_back(grads[i]);
      }
    }
    torch::autograd::backward(roots, root_grads);
    variable_list out;
    for (const at::Tensor& x : inputs) out.push_back(x.grad());
    out.emplace_back();  // of f
    return out;
  }
};

}  // namespace

variable_list recompute(Part f, const variable_list& inputs) {
  if (!at::GradMode::is_enabled()) return f(inputs);
  QUEST_ASSERT(std::any_of(inputs.begin(), inputs.end(),
                           [](const at::Tensor& x) { return x.defined() && x.requires_grad(); }),
               "recompute of a part none of whose inputs requires a gradient: its parameters would "
               "get none");
  variable_list defined;
  std::vector<bool> is_defined;
  for (const at::Tensor& x : inputs) {
    is_defined.push_back(x.defined());
    if (x.defined()) defined.push_back(x);
  }
  const auto part = [f = std::move(f), is_defined](const variable_list& given) {
    variable_list all;
    size_t next = 0;
    for (const bool there : is_defined) all.push_back(there ? given[next++] : at::Tensor());
    return f(all);
  };
  return RecomputeFunction::apply(at::TensorList(defined), Part(part));
}

}  // namespace quest::nn
