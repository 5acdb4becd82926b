#include "quest/train/gpu_step.h"

#include "quest/base/error.h"
#include "quest/ops/gpu.h"

namespace quest::train {

class GpuStep::Impl {};

namespace {
[[noreturn]] void missing() {
  QUEST_THROW(ErrorKind::kEnvironment, "{}", ops::gpu_unusable_reason());
}
}  // namespace

GpuStep::GpuStep(nn::LlamaModel&, Optimizer&, const TrainConfig&, int64_t) { missing(); }
GpuStep::~GpuStep() = default;
void GpuStep::micro_batch(const Batch&, double) { missing(); }
void GpuStep::finish(double) { missing(); }
void GpuStep::apply() { missing(); }
GpuStep::Result GpuStep::take() { missing(); }
int64_t GpuStep::untaken() const { missing(); }
void prepare_gpu(bool) { missing(); }
int64_t gpu_peak_bytes() { missing(); }
int64_t gpu_peak_reserved_bytes() { missing(); }
double measure_gpu_flops(bool) { missing(); }

}  // namespace quest::train
