#include "quest/train/gpu_step.h"

#include "quest/ops/no_cuda/missing_gpu.h"

namespace quest::train {

class GpuStep::Impl {};

GpuStep::GpuStep(nn::LlamaModel&, Optimizer&, const TrainConfig&, int64_t) { ops::missing_gpu(); }
GpuStep::~GpuStep() = default;
void GpuStep::micro_batch(const Batch&, double) { ops::missing_gpu(); }
void GpuStep::finish(double) { ops::missing_gpu(); }
void GpuStep::apply() { ops::missing_gpu(); }
GpuStep::Result GpuStep::take() { ops::missing_gpu(); }
int64_t GpuStep::untaken() const { ops::missing_gpu(); }
void prepare_gpu(bool) { ops::missing_gpu(); }
int64_t gpu_peak_bytes() { ops::missing_gpu(); }
int64_t gpu_peak_reserved_bytes() { ops::missing_gpu(); }
double measure_gpu_flops(bool) { ops::missing_gpu(); }

}  // namespace quest::train
