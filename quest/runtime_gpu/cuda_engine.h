// The engine on a GPU: a packed model, its weights packed in device memory.
//
//   CudaEngine engine(PackedModel("packed/w4a4"));
//   const SequenceId s = engine.add_sequence();
//   engine.prefill(s, prompt, logits);
//   engine.decode({&s, 1}, {&next, 1}, logits);
//
// Two ways to compute (CudaNumerics):
//   kExact  FP32 between products in the orders of docs/numerics.md, "Deployment": for models whose
//           products are of integer codes (plans() says so; of 4:8 weights on a Hopper GPU alone)
//           the bits of the CPU engine, logits included
//   kFast   codes and integer products as exact as before, but prompts of more than
//           64 tokens are read in BF16 (with LibTorch's attention), and single tokens and shorter
//           prompts have a split sum in attention
// With kExact, and with kFast for single tokens and prompts of up to 64, a sequence's result does
// not depend on which others share a call (of models whose products are of integer codes). For
// longer prompts LibTorch's attention may choose its order of sums by how many share one.
//
// Thread rules: one call at a time. Errors: those of engine.h; kEnvironment where this build has no
// GPU kernels, no GPU is visible or its memory does not suffice.
#pragma once

#include <memory>
#include <string_view>

#include "quest/packed/packed_model.h"
#include "quest/runtime/engine.h"
#include "quest/runtime/sampler.h"

namespace quest {

enum class CudaNumerics { kFast, kExact };
enum class CudaKvFormat { kBf16, kFp16, kInt8 };
CudaKvFormat cuda_kv_format_from_name(std::string_view name);  // "bf16", ...; throws kUsage

struct CudaEngineOptions {
  int64_t context = 0;  // most tokens of a sequence; 0: the model's max_position_embeddings
  int64_t chunk = 0;    // most rows computed at once; 0: 8192 (kExact: 512)
  CudaNumerics numerics = CudaNumerics::kFast;
  CudaKvFormat kv = CudaKvFormat::kFp16;  // kExact: kFp16 or kInt8, as the CPU's
  // Also keep the weights as int8, four times the memory of 2 bits, so that prompts and steps of
  // many sequences need not unpack them (plans() says from how many on). Without effect where no
  // int8 tensor cores multiply them: other GPUs than Hopper.
  bool unpacked_weights = false;
  // Record steps of decode, and prompts of a shape that comes again, as CUDA graphs: those of the
  // 64 shapes of steps and the 4 of prompts that were used last are kept.
  bool graphs = true;
};

class CudaEngine final : public Engine {
 public:
  explicit CudaEngine(PackedModel model, const CudaEngineOptions& options = {});
  ~CudaEngine() override;

  const LlamaConfig& config() const override;
  int64_t context_length() const override;
  SequenceId add_sequence() override;
  void remove_sequence(SequenceId sequence) override;
  int64_t length(SequenceId sequence) const override;
  void truncate(SequenceId sequence, int64_t length) override;
  void prefill(SequenceId sequence, std::span<const int32_t> tokens,
               std::span<float> logits) override;
  void prefill_all(SequenceId sequence, std::span<const int32_t> tokens,
                   const TokenLogits& row) override;
  void score(SequenceId sequence, std::span<const int32_t> tokens, TokenScores scores) override;
  void decode(std::span<const SequenceId> sequences, std::span<const int32_t> tokens,
              std::span<float> logits) override;
  std::string plans() const override;

  // Reads a prompt for each of n sequences at once. logits (n, V), or empty: not wanted.
  void prefill_batch(std::span<const SequenceId> sequences,
                     std::span<const std::span<const int32_t>> tokens, std::span<float> logits);
  // `steps` times: one token for each sequence, the most likely next one taken on the device.
  // tokens (n): what to read first. out (steps, n): what was chosen, out's last not yet read.
  void decode_greedy(std::span<const SequenceId> sequences, std::span<const int32_t> tokens,
                     int64_t steps, std::span<int32_t> out);
  // The same with the tokens that a Sampler (sampler.h) of each sequence's settings chooses from
  // the logits of decode(), chosen on the device. settings (1 or n). As in Generator, a draw's
  // position is the number of tokens read so far. previous (n, or empty): the tokens that
  // repetition_penalty applies to at first; those chosen here are added. Errors: those of Sampler.
  void decode_sampled(std::span<const SequenceId> sequences, std::span<const int32_t> tokens,
                      std::span<const SamplerSettings> settings, int64_t steps,
                      std::span<int32_t> out,
                      std::span<const std::span<const int32_t>> previous = {});

  // What a step of decode takes on the device, without the host: seconds of `repeats` steps at the
  // sequences' present lengths, which stay as they are. At most 64 sequences.
  struct StepSeconds {
    double blocks = 0, head = 0;
  };
  StepSeconds time_decode(std::span<const SequenceId> sequences, int64_t repeats);
  // Seconds of reading a prompt of `tokens` tokens for each of `sequences` new sequences, last
  // logits included: the mean of `repeats` times, from the first kernel to the last.
  double time_prefill(int64_t sequences, int64_t tokens, int64_t repeats);

  const PackedModel& model() const;
  // Device memory. Scratch: with what recorded graphs use, without the driver's own for them.
  int64_t weight_bytes() const;
  int64_t cache_bytes() const;
  int64_t scratch_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quest
