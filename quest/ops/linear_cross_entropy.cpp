#include "quest/ops/linear_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quest/kernels/cross_entropy.h"
#include "quest/kernels/cuda/cross_entropy.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/matmul.h"

namespace quest::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Logits held at once: so many rows that the products run at full speed (on a CPU each chunk reads
// and packs the head's weights anew), 64 MiB of bfloat16 or 128 MiB of FP32. On a GPU bytes.
constexpr int64_t kChunkLogits = int64_t{32} << 20;
constexpr int64_t kGpuChunkBytes = int64_t{256} << 20;

// Losses of rows [begin, begin + logits.size(0)); logits become gradients times grad_scale if not
// 0.
void cross_entropy_rows(const at::Tensor& logits, const at::Tensor& targets, int64_t begin,
                        float grad_scale, const at::Tensor& losses) {
  const int64_t v = logits.size(1);
  with_kernel_type(logits.scalar_type(), "cross_entropy", [&](auto element) {
    using T = decltype(element);
    parallel_rows(logits.size(0), 4 * v, [&](int64_t r0, int64_t r1) {
      kernels::cross_entropy<T>(data<T>(logits) + r0 * v, data<int64_t>(targets) + begin + r0,
                                r1 - r0, v, grad_scale, data<float>(losses) + begin + r0);
    });
  });
}

void gpu_cross_entropy_rows(const at::Tensor& logits, const at::Tensor& targets, int64_t begin,
                            const at::Tensor* grad_scale, const at::Tensor& losses) {
  with_kernel_type(logits.scalar_type(), "cross_entropy", [&](auto element) {
    using T = decltype(element);
    kernels::cuda::cross_entropy<T>(data<T>(logits), data<int64_t>(targets) + begin, logits.size(0),
                                    logits.size(1),
                                    grad_scale == nullptr ? nullptr : data<float>(*grad_scale),
                                    data<float>(losses) + begin, current_stream());
  });
}

class LinearCrossEntropyFunction : public torch::autograd::Function<LinearCrossEntropyFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& weight_copy, const at::Tensor& targets,
                            bool grad_enabled) {
    RECORD_USER_SCOPE("quest::linear_cross_entropy");
    const int64_t m = x.size(0), v = weight_copy.size(0);
    const int64_t count = count_targets(targets, v);
    const bool grad_x_wanted = grad_enabled && x.requires_grad();
    const bool grad_w_wanted = grad_enabled && weight.requires_grad();
    const bool gradients = (grad_x_wanted || grad_w_wanted) && count > 0;
    const float scale = gradients ? 1.0f / static_cast<float>(count) : 0.0f;
    at::Tensor losses = at::empty({m}, x.options().dtype(at::kFloat).requires_grad(false));
    at::Tensor grad_x, grad_w;
    if (grad_x_wanted) {
      grad_x = count > 0 ? at::empty_like(x) : at::zeros(x.sizes(), x.options());
    }
    if (grad_w_wanted) {
      const auto options = weight.options().requires_grad(false);
      grad_w = count > 0 ? at::empty(weight.sizes(), options) : at::zeros(weight.sizes(), options);
    }
    const int64_t rows = logits_chunk_rows(v, x.element_size());
    for (int64_t begin = 0; begin < m && count > 0; begin += rows) {
      const int64_t n = std::min(rows, m - begin);
      const at::Tensor part = x.narrow(0, begin, n);
      at::Tensor logits = matmul(part, weight_copy.t(), x.scalar_type());
      cross_entropy_rows(logits, targets, begin, scale, losses);
      if (grad_x_wanted) {
        grad_x.narrow(0, begin, n).copy_(matmul(logits, weight_copy, x.scalar_type()));
      }
      if (grad_w_wanted) {
        matmul_into(logits.t(), part, /*add=*/begin > 0, grad_w);
      }
    }
    ctx->save_for_backward({grad_x, grad_w});
    return count > 0 ? (losses.sum(at::kDouble) / static_cast<double>(count)).to(at::kFloat)
                     : at::zeros({}, losses.options());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto factor = grads[0].item<double>();
    variable_list result(5);
    for (size_t i = 0; i < 2; ++i) {
      if (saved[i].defined()) {
        result[i] = factor == 1.0 ? saved[i] : saved[i] * factor;
      }
    }
    return result;
  }
};

// The same on a GPU. The number of targets stays on the device, so that the host need not wait;
// targets out of range give a NaN loss there.
class GpuLinearCrossEntropyFunction
    : public torch::autograd::Function<GpuLinearCrossEntropyFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& weight_copy, const at::Tensor& targets,
                            bool grad_enabled) {
    RECORD_USER_SCOPE("quest::linear_cross_entropy");
    const int64_t m = x.size(0), v = weight_copy.size(0);
    const bool grad_x_wanted = grad_enabled && x.requires_grad();
    const bool grad_w_wanted = grad_enabled && weight.requires_grad();
    const at::Tensor scale =
        targets.ne(kernels::kIgnoreTarget).sum().to(at::kFloat).clamp_min(1).reciprocal();
    at::Tensor losses = at::empty({m}, x.options().dtype(at::kFloat).requires_grad(false));
    at::Tensor grad_x, grad_w;
    if (grad_x_wanted) grad_x = at::empty_like(x);
    if (grad_w_wanted) grad_w = at::empty(weight.sizes(), weight.options().requires_grad(false));
    const int64_t rows = std::min(m, logits_chunk_rows(v, x.element_size(), at::kCUDA));
    for (int64_t begin = 0; begin < m; begin += rows) {
      const int64_t n = std::min(rows, m - begin);
      const at::Tensor part = x.narrow(0, begin, n);
      const at::Tensor logits = at::mm(part, weight_copy.t());
      gpu_cross_entropy_rows(logits, targets, begin,
                             grad_x_wanted || grad_w_wanted ? &scale : nullptr, losses);
      if (grad_x_wanted) {
        at::Tensor out = grad_x.narrow(0, begin, n);
        at::mm_out(out, logits, weight_copy);
      }
      if (grad_w_wanted) matmul_into(logits.t(), part, /*add=*/begin > 0, grad_w);
    }
    ctx->save_for_backward({grad_x, grad_w});
    return losses.sum() * scale;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    variable_list result(5);
    for (size_t i = 0; i < 2; ++i) {
      if (saved[i].defined()) result[i] = saved[i].detach().mul_(grads[0]);
    }
    return result;
  }
};

void check_shapes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& targets) {
  QUEST_CHECK(
      x.dim() == 2 && weight.dim() == 2 && x.size(1) == weight.size(1) &&
          targets.numel() == x.size(0),
      ErrorKind::kUsage,
      "[cross_entropy] x is {} x {}, the head {} x {}, targets {}; expected (M,C), (V,C), (M)",
      x.size(0), x.size(-1), weight.size(0), weight.size(-1), targets.numel());
  QUEST_CHECK(targets.scalar_type() == at::kLong && targets.is_contiguous() &&
                  targets.device() == x.device() && weight.device() == x.device(),
              ErrorKind::kUsage,
              "[cross_entropy] targets must be contiguous int64 on {}, as the head; they are {} on "
              "{}, the head on {}",
              x.device().str(), at::toString(targets.scalar_type()), targets.device().str(),
              weight.device().str());
}

}  // namespace

int64_t count_targets(const at::Tensor& targets, int64_t vocabulary) {
  const int64_t* values = data<int64_t>(targets);
  int64_t count = 0;
  for (int64_t i = 0; i < targets.numel(); ++i) {
    if (values[i] == kernels::kIgnoreTarget) {
      continue;
    }
    QUEST_CHECK(values[i] >= 0 && values[i] < vocabulary, ErrorKind::kData,
                "[cross_entropy] target {} is {}, the vocabulary has {} tokens; was the data "
                "tokenized with another tokenizer?",
                i, values[i], vocabulary);
    ++count;
  }
  return count;
}

int64_t logits_chunk_rows(int64_t vocabulary, int64_t element_size, at::DeviceType device) {
  const int64_t logits = device == at::kCUDA ? kGpuChunkBytes / element_size : kChunkLogits;
  return std::max<int64_t>(64, logits / vocabulary / 64 * 64);
}

at::Tensor linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                const at::Tensor& weight_copy, const at::Tensor& targets) {
  check_shapes(x, weight, targets);
  if (x.scalar_type() == at::kDouble) {
    const int64_t count = count_targets(targets, weight.size(0));
    const at::Tensor sum =
        at::cross_entropy_loss(at::mm(x, weight.t()), targets, {}, at::Reduction::Sum);
    return sum / static_cast<double>(std::max<int64_t>(1, count));
  }
  if (x.is_cuda()) {
    return GpuLinearCrossEntropyFunction::apply(x.contiguous(), weight, weight_copy, targets,
                                                at::GradMode::is_enabled());
  }
  return LinearCrossEntropyFunction::apply(x.contiguous(), weight, weight_copy, targets,
                                           at::GradMode::is_enabled());
}

at::Tensor linear_token_losses(const at::Tensor& x, const at::Tensor& weight_copy,
                               const at::Tensor& targets) {
  check_shapes(x, weight_copy, targets);
  const at::NoGradGuard no_grad;
  if (x.is_cpu()) count_targets(targets, weight_copy.size(0));
  if (x.scalar_type() == at::kDouble) {
    return at::cross_entropy_loss(at::mm(x, weight_copy.t()), targets, {}, at::Reduction::None)
        .to(at::kFloat);
  }
  at::Tensor losses = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  const int64_t rows = logits_chunk_rows(weight_copy.size(0), x.element_size(), x.device().type());
  for (int64_t begin = 0; begin < x.size(0); begin += rows) {
    const at::Tensor logits = matmul(x.narrow(0, begin, std::min(rows, x.size(0) - begin)),
                                     weight_copy.t(), x.scalar_type());
    if (x.is_cuda()) {
      gpu_cross_entropy_rows(logits, targets, begin, nullptr, losses);
    } else {
      cross_entropy_rows(logits, targets, begin, 0.0f, losses);
    }
  }
  return losses;
}

}  // namespace quest::ops
