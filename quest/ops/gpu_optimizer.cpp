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

namespace {

float* values(const at::Tensor& tensor, int64_t n) {
  QUEST_ASSERT(tensor.is_cuda() && tensor.is_contiguous() && tensor.scalar_type() == at::kFloat &&
                   tensor.numel() == n,
               "a tensor of {} x {} for an optimizer step of {} values on a GPU",
               at::toString(tensor.scalar_type()), tensor.numel(), n);
  return data<float>(tensor);
}

}  // namespace

void begin_step(const std::vector<at::Tensor>& gradients, double clip_norm, double beta1,
                double beta2, const at::Tensor& control) {
  const auto count = static_cast<int64_t>(gradients.size());
  const at::Tensor partials =
      at::empty({count, gpu::kSquareBlocks}, control.options().dtype(at::kDouble));
  std::vector<gpu::GradientValues> list;
  list.reserve(gradients.size());
  for (const at::Tensor& g : gradients) list.push_back({values(g, g.numel()), g.numel()});
  gpu::gradient_squares(list.data(), count, data<double>(partials), current_stream());
  gpu::begin_step(data<double>(partials), count * gpu::kSquareBlocks, clip_norm, beta1, beta2,
                  data<float>(control), current_stream());
}

void adamw_step(const std::vector<AdamWTensors>& parameters, const AdamWStep& settings,
                const at::Tensor& control) {
  std::vector<gpu::AdamWTensor> list;
  list.reserve(parameters.size());
  for (const AdamWTensors& p : parameters) {
    const int64_t n = p.weight.numel();
    list.push_back({values(p.weight, n), values(p.gradient, n), values(p.first, n),
                    values(p.second, n), n, static_cast<float>(p.weight_decay)});
  }
  gpu::adamw(list.data(), static_cast<int64_t>(list.size()),
             {settings.beta1, settings.beta2, settings.eps}, data<float>(control),
             current_stream());
}

}  // namespace quest::ops
