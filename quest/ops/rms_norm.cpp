#include "quest/ops/rms_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quest/kernels/cuda/rms_norm.h"
#include "quest/kernels/rms_norm.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"

namespace quest::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows whose weight gradients are summed together, in order, before the blocks are.
constexpr int64_t kBlockRows = 64;

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
    RECORD_USER_SCOPE("quest::rms_norm");
    const int64_t m = x.size(0), c = x.size(1);
    at::Tensor y = at::empty_like(x);
    at::Tensor inverse_rms = at::empty({m}, x.options().dtype(at::kFloat));
    with_kernel_type(x.scalar_type(), "rms_norm", [&](auto element) {
      using T = decltype(element);
      parallel_rows(m, c, [&](int64_t begin, int64_t end) {
        kernels::rms_norm<T>(data<T>(x) + begin * c, data<float>(weight), end - begin, c,
                             static_cast<float>(eps), data<T>(y) + begin * c,
                             data<float>(inverse_rms) + begin);
      });
    });
    ctx->save_for_backward({x, weight, inverse_rms});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse_rms = saved[2];
    const at::Tensor grad_y = grads[0].contiguous();
    const int64_t m = x.size(0), c = x.size(1), blocks = (m + kBlockRows - 1) / kBlockRows;
    at::Tensor grad_x = at::empty_like(x);
    at::Tensor partial = at::zeros({blocks, c}, weight.options().requires_grad(false));
    with_kernel_type(x.scalar_type(), "rms_norm", [&](auto element) {
      using T = decltype(element);
      at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) {
          const int64_t row = block * kBlockRows, rows = std::min(kBlockRows, m - row);
          kernels::rms_norm_backward<T>(data<T>(grad_y) + row * c, data<T>(x) + row * c,
                                        data<float>(weight), data<float>(inverse_rms) + row,
                                        nullptr, rows, c, data<T>(grad_x) + row * c,
                                        data<float>(partial) + block * c);
        }
      });
    });
    return {grad_x, partial.sum(0), at::Tensor()};
  }
};

// The same on a GPU, of x + delta (delta undefined: of x).
class AddRmsNormFunction : public torch::autograd::Function<AddRmsNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::optional<at::Tensor>& added, const at::Tensor& weight,
                            double eps) {
    RECORD_USER_SCOPE("quest::rms_norm");
    const at::Tensor delta = added.value_or(at::Tensor());
    const int64_t m = x.size(0), c = x.size(1);
    at::Tensor y = at::empty_like(x);
    at::Tensor inverse_rms = at::empty({m}, x.options().dtype(at::kFloat));
    const at::Tensor h = delta.defined() ? at::empty_like(x) : x;
    with_kernel_type(x.scalar_type(), "rms_norm", [&](auto element) {
      using T = decltype(element);
      kernels::cuda::add_rms_norm<T>(data<T>(x), pointer_or_null<T>(delta), data<float>(weight),
                                     static_cast<float>(eps), m, c, data<T>(h), data<T>(y),
                                     data<float>(inverse_rms), current_stream());
    });
    ctx->save_for_backward({h, weight, inverse_rms});
    ctx->saved_data["adds"] = delta.defined();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &h = saved[0], &weight = saved[1], &inverse_rms = saved[2];
    const at::Tensor grad_y = grads[0].contiguous();
    const int64_t m = h.size(0), c = h.size(1);
    at::Tensor grad_h = at::empty_like(h), grad_weight = at::empty_like(weight);
    const at::Tensor workspace =
        at::empty({kernels::cuda::rms_norm_backward_workspace(m, c)}, weight.options());
    with_kernel_type(h.scalar_type(), "rms_norm", [&](auto element) {
      using T = decltype(element);
      kernels::cuda::rms_norm_backward<T>(nullptr, nullptr, data<T>(grad_y), data<T>(h),
                                          data<float>(weight), data<float>(inverse_rms), nullptr, m,
                                          c, data<T>(grad_h), data<float>(grad_weight),
                                          data<float>(workspace), current_stream());
    });
    return {grad_h, ctx->saved_data["adds"].toBool() ? grad_h : at::Tensor(), grad_weight,
            at::Tensor()};
  }
};

}  // namespace

void check_norm(const at::Tensor& x, const at::Tensor& weight) {
  QUEST_CHECK(x.size(-1) == weight.numel(), ErrorKind::kUsage,
              "[rms_norm] x has C={}, weight has {}", x.size(-1), weight.numel());
  const auto master = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  QUEST_CHECK(weight.scalar_type() == master && weight.is_contiguous(), ErrorKind::kUsage,
              "[rms_norm] weight is {}, with x {} it must be a contiguous {}",
              at::toString(weight.scalar_type()), at::toString(x.scalar_type()),
              at::toString(master));
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return add_rms_norm(x, {}, weight, eps);
}

at::Tensor add_rms_norm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight,
                        double eps) {
  check_norm(x, weight);
  if (x.is_cuda()) {
    return AddRmsNormFunction::apply(as_matrix(x), optional_matrix(delta), weight, eps)
        .view(x.sizes());
  }
  if (delta.defined()) return rms_norm(x + delta, weight, eps);
  if (x.scalar_type() == at::kDouble) {
    return x * (x * x).mean(-1, /*keepdim=*/true).add(eps).rsqrt() * weight;
  }
  return RmsNormFunction::apply(as_matrix(x), weight, eps).view(x.sizes());
}

}  // namespace quest::ops
