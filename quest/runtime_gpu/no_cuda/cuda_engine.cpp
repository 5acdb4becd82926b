// The twin of cuda/cuda_engine.cpp for builds without GPU kernels.
#include "quest/runtime_gpu/cuda_engine.h"

#include "quest/base/error.h"
#include "quest/ops/gpu.h"

namespace quest {
namespace {

[[noreturn]] void missing() {
  QUEST_THROW(ErrorKind::kEnvironment, "{}", ops::gpu_unusable_reason());
}

}  // namespace

class CudaEngine::Impl {};

CudaEngine::CudaEngine(PackedModel, const CudaEngineOptions&) { missing(); }
CudaEngine::~CudaEngine() = default;
const LlamaConfig& CudaEngine::config() const { missing(); }
const PackedModel& CudaEngine::model() const { missing(); }
int64_t CudaEngine::context_length() const { missing(); }
SequenceId CudaEngine::add_sequence() { missing(); }
void CudaEngine::remove_sequence(SequenceId) { missing(); }
int64_t CudaEngine::length(SequenceId) const { missing(); }
void CudaEngine::truncate(SequenceId, int64_t) { missing(); }
void CudaEngine::prefill(SequenceId, std::span<const int32_t>, std::span<float>) { missing(); }
void CudaEngine::prefill_all(SequenceId, std::span<const int32_t>, const TokenLogits&) {
  missing();
}
void CudaEngine::score(SequenceId, std::span<const int32_t>, TokenScores) { missing(); }
void CudaEngine::decode(std::span<const SequenceId>, std::span<const int32_t>, std::span<float>) {
  missing();
}
std::string CudaEngine::plans() const { missing(); }
void CudaEngine::prefill_batch(std::span<const SequenceId>,
                               std::span<const std::span<const int32_t>>, std::span<float>) {
  missing();
}
void CudaEngine::decode_greedy(std::span<const SequenceId>, std::span<const int32_t>, int64_t,
                               std::span<int32_t>) {
  missing();
}
void CudaEngine::decode_sampled(std::span<const SequenceId>, std::span<const int32_t>,
                                std::span<const SamplerSettings>, int64_t, std::span<int32_t>,
                                std::span<const std::span<const int32_t>>) {
  missing();
}
CudaEngine::StepSeconds CudaEngine::time_decode(std::span<const SequenceId>, int64_t) { missing(); }
double CudaEngine::time_prefill(int64_t, int64_t, int64_t) { missing(); }
int64_t CudaEngine::weight_bytes() const { missing(); }
int64_t CudaEngine::cache_bytes() const { missing(); }
int64_t CudaEngine::scratch_bytes() const { missing(); }

}  // namespace quest
