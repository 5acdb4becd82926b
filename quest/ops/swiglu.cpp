#include "quest/ops/swiglu.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/silu.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quest/kernels/cuda/swiglu.h"
#include "quest/kernels/swiglu.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"

namespace quest::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class SwigluFunction : public torch::autograd::Function<SwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up) {
    RECORD_USER_SCOPE("quest::swiglu");
    const int64_t m = gate_up.size(0), f = gate_up.size(1) / 2;
    at::Tensor y = at::empty({m, f}, gate_up.options());
    with_kernel_type(gate_up.scalar_type(), "swiglu", [&](auto element) {
      using T = decltype(element);
      if (gate_up.is_cuda()) {
        kernels::cuda::swiglu<T>(data<T>(gate_up), m, f, data<T>(y), current_stream());
        return;
      }
      parallel_rows(m, 4 * f, [&](int64_t begin, int64_t end) {
        kernels::swiglu<T>(data<T>(gate_up) + begin * 2 * f, end - begin, f,
                           data<T>(y) + begin * f);
      });
    });
    ctx->save_for_backward({gate_up});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor gate_up = ctx->get_saved_variables()[0];
    const at::Tensor grad_y = grads[0].contiguous();
    const int64_t m = gate_up.size(0), f = gate_up.size(1) / 2;
    at::Tensor grad = at::empty_like(gate_up);
    with_kernel_type(gate_up.scalar_type(), "swiglu", [&](auto element) {
      using T = decltype(element);
      if (gate_up.is_cuda()) {
        kernels::cuda::swiglu_backward<T>(nullptr, nullptr, data<T>(grad_y), data<T>(gate_up), m, f,
                                          data<T>(grad), current_stream());
        return;
      }
      parallel_rows(m, 4 * f, [&](int64_t begin, int64_t end) {
        kernels::swiglu_backward<T>(data<T>(grad_y) + begin * f, data<T>(gate_up) + begin * 2 * f,
                                    end - begin, f, data<T>(grad) + begin * 2 * f);
      });
    });
    return {grad};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up) {
  QUEST_CHECK(gate_up.size(-1) % 2 == 0, ErrorKind::kUsage,
              "[swiglu] the last dimension is {}, must be even: gate then up", gate_up.size(-1));
  const int64_t f = gate_up.size(-1) / 2;
  if (gate_up.scalar_type() == at::kDouble) {
    return at::silu(gate_up.narrow(-1, 0, f)) * gate_up.narrow(-1, f, f);
  }
  std::vector<int64_t> shape = gate_up.sizes().vec();
  shape.back() = f;
  return SwigluFunction::apply(as_matrix(gate_up)).view(shape);
}

}  // namespace quest::ops
