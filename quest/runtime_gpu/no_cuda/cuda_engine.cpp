// The twin of cuda/cuda_engine.cpp for builds without GPU kernels.
#include "quest/runtime_gpu/cuda_engine.h"

#include "quest/ops/no_cuda/missing_gpu.h"

namespace quest {

class CudaEngine::Impl {};

CudaEngine::CudaEngine(PackedModel, const CudaEngineOptions&) { ops::missing_gpu(); }
CudaEngine::~CudaEngine() = default;
const LlamaConfig& CudaEngine::config() const { ops::missing_gpu(); }
const PackedModel& CudaEngine::model() const { ops::missing_gpu(); }
int64_t CudaEngine::context_length() const { ops::missing_gpu(); }
SequenceId CudaEngine::add_sequence() { ops::missing_gpu(); }
void CudaEngine::remove_sequence(SequenceId) { ops::missing_gpu(); }
int64_t CudaEngine::length(SequenceId) const { ops::missing_gpu(); }
void CudaEngine::truncate(SequenceId, int64_t) { ops::missing_gpu(); }
void CudaEngine::prefill(SequenceId, std::span<const int32_t>, std::span<float>) {
  ops::missing_gpu();
}
void CudaEngine::prefill_all(SequenceId, std::span<const int32_t>, const TokenLogits&) {
  ops::missing_gpu();
}
void CudaEngine::score(SequenceId, std::span<const int32_t>, TokenScores) { ops::missing_gpu(); }
void CudaEngine::decode(std::span<const SequenceId>, std::span<const int32_t>, std::span<float>) {
  ops::missing_gpu();
}
std::string CudaEngine::plans() const { ops::missing_gpu(); }
void CudaEngine::prefill_batch(std::span<const SequenceId>,
                               std::span<const std::span<const int32_t>>, std::span<float>) {
  ops::missing_gpu();
}
void CudaEngine::decode_greedy(std::span<const SequenceId>, std::span<const int32_t>, int64_t,
                               std::span<int32_t>) {
  ops::missing_gpu();
}
void CudaEngine::decode_sampled(std::span<const SequenceId>, std::span<const int32_t>,
                                std::span<const SamplerSettings>, int64_t, std::span<int32_t>,
                                std::span<const std::span<const int32_t>>) {
  ops::missing_gpu();
}
CudaEngine::StepSeconds CudaEngine::time_decode(std::span<const SequenceId>, int64_t) {
  ops::missing_gpu();
}
double CudaEngine::time_prefill(int64_t, int64_t, int64_t) { ops::missing_gpu(); }
int64_t CudaEngine::weight_bytes() const { ops::missing_gpu(); }
int64_t CudaEngine::cache_bytes() const { ops::missing_gpu(); }
int64_t CudaEngine::scratch_bytes() const { ops::missing_gpu(); }

}  // namespace quest
