#include "quest/ops/gpu_optimizer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "quest/kernels/cuda/adamw.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"

namespace quest::ops {

namespace gpu = kernels::cuda;

static_assert(StepControl::kLearningRate == gpu::kLearningRate &&
              StepControl::kLoss == gpu::kLoss &&
              StepControl::kGradientNorm == gpu::kGradientNorm &&
              StepControl::kSkipped == gpu::kSkipped && StepControl::kUpdates == gpu::kUpdates &&
              StepControl::kSize == gpu::kStepControls);

at::Tensor make_step_control() {
  return at::zeros({StepControl::kSize}, at::TensorOptions(at::kFloat).device(at::kCUDA));
}

void begin_step(const std::vector<at::Tensor>& gradients, double clip_norm, double beta1,
                double beta2, const at::Tensor& control) {
  const auto count = static_cast<int64_t>(gradients.size());
  const at::Tensor partials =
      at::empty({count, gpu::kSquareBlocks}, control.options().dtype(at::kDouble));
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor& g = gradients[static_cast<size_t>(i)];
    QUEST_ASSERT(g.is_contiguous() && g.scalar_type() == at::kFloat, "a gradient of {}",
                 at::toString(g.scalar_type()));
    gpu::gradient_squares(data<float>(g), g.numel(),
                          data<double>(partials) + i * gpu::kSquareBlocks, current_stream());
  }
  gpu::begin_step(data<double>(partials), count * gpu::kSquareBlocks, clip_norm, beta1, beta2,
                  data<float>(control), current_stream());
}

void adamw_step(const at::Tensor& weight, const at::Tensor& gradient, const at::Tensor& first,
                const at::Tensor& second, const AdamWStep& settings, const at::Tensor& control) {
  gpu::adamw(data<float>(weight), data<float>(gradient), data<float>(first), data<float>(second),
             weight.numel(), {settings.beta1, settings.beta2, settings.eps, settings.weight_decay},
             data<float>(control), current_stream());
}

}  // namespace quest::ops
