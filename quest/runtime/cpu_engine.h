// The CPU engine: a packed model, torch-free.
//
// FP32 between products; the products are exact integers where both sides have integer codes. The
// same model gives the same bits, and so the same tokens, on every CPU, at every instruction-set
// level, with any number of threads, in chunks of any size, and whatever other sequences share a
// call (docs/numerics.md, "Deployment").
//
//   CpuEngine engine(PackedModel("packed/w4a4"), {.threads = 2, .kv = KvFormat::kInt8});
//
// Memory beside the model's file: the cache (KvCache) and, for calls of R rows (at most `chunk`),
// 2 R C + max(R (2 H + 2 G) D, min(R, 256) 2 F) floats, codes aside; see scratch_bytes().
#pragma once

#include <memory>
#include <vector>

#include "quest/base/cpu_features.h"
#include "quest/model/rope_table.h"
#include "quest/packed/packed_model.h"
#include "quest/runtime/engine.h"
#include "quest/runtime/kv_cache.h"
#include "quest/runtime/packed_linear.h"
#include "quest/runtime/thread_team.h"

namespace quest {

struct EngineOptions {
  int threads = 0;      // 0: default_thread_count()
  int64_t context = 0;  // most tokens of a sequence; 0: the model's max_position_embeddings
  int64_t chunk = 512;  // most rows computed at once
  KvFormat kv = KvFormat::kFp16;
  IsaLevel level = isa_level();
};

class CpuEngine final : public Engine {
 public:
  // Throws kUsage for impossible options: a context beyond the model's without rope scaling that
  // reaches it ("dynamic"), an INT8 cache for a head size without Hadamard block.
  explicit CpuEngine(PackedModel model, const EngineOptions& options = {});
  ~CpuEngine() override;

  const LlamaConfig& config() const override { return model_.config(); }
  int64_t context_length() const override { return options_.context; }
  SequenceId add_sequence() override { return cache_.add(); }
  void remove_sequence(SequenceId sequence) override { cache_.remove(sequence); }
  int64_t length(SequenceId sequence) const override { return cache_.get(sequence).length; }
  void truncate(SequenceId sequence, int64_t length) override { cache_.truncate(sequence, length); }
  void prefill(SequenceId sequence, std::span<const int32_t> tokens,
               std::span<float> logits) override;
  void prefill_all(SequenceId sequence, std::span<const int32_t> tokens,
                   const TokenLogits& row) override;
  void score(SequenceId sequence, std::span<const int32_t> tokens, TokenScores scores) override;
  void decode(std::span<const SequenceId> sequences, std::span<const int32_t> tokens,
              std::span<float> logits) override;
  std::string plans() const override;

  const PackedModel& model() const { return model_; }
  int threads() const { return team_.size(); }
  int64_t cache_bytes() const { return cache_.bytes(); }
  int64_t scratch_bytes() const;

 private:
  // Consecutive rows of a call that belong to one sequence.
  struct Segment {
    KvSequence* sequence = nullptr;
    std::span<const int32_t> tokens;
    int64_t first_row = 0;
    int64_t first_position = 0;  // = the sequence's length before the call
  };
  struct Block {
    std::span<const float> input_norm, post_attention_norm;
    PackedLinear qkv, o, gate_up, down;
  };

  // Rows of hidden states after the last block, in hidden_; fills the cache. Lengths are the
  // caller's to advance.
  void forward(std::span<const Segment> segments);
  // One chunk of one sequence, and its length.
  void forward_chunk(SequenceId sequence, std::span<const int32_t> tokens);
  void embed(std::span<const Segment> segments);
  void attention(int64_t index, std::span<const Segment> segments, int64_t rows);
  void append_heads(int64_t index, const Segment& segment, int64_t kv_head, int64_t begin,
                    int64_t end);
  void attend_heads(int64_t index, const Segment& segment, int64_t kv_head, int64_t begin,
                    int64_t end, int thread);
  void mlp(const Block& block, int64_t rows);
  // out (rows, V) = logits of hidden rows [first, first + rows).
  void head(int64_t first, int64_t rows, float* out);
  // f(first row, logits (rows, V)) for all of `rows` hidden rows, some at a time.
  template <class Function>
  void over_logits(int64_t rows, const Function& f);
  float* thread_row(int thread);

  PackedModel model_;
  EngineOptions options_;
  ThreadTeam team_;
  KvCache cache_;
  RopeTable rope_;
  std::vector<Block> blocks_;

  AlignedBuffer<float> hidden_;  // (rows, C)
  AlignedBuffer<float> wide_;    // (rows, (H + 2G) D); (some rows, 2F)
  AlignedBuffer<float> normed_;  // (rows, H D) of attention; (rows, C) that is to be added to the
                                 // hidden rows; the head's input
  AlignedBuffer<float> logits_;  // (some rows, V)
  AlignedBuffer<uint8_t> head_input_;
  AlignedBuffer<float> rows_;      // one row for each thread
  AlignedBuffer<uint8_t> attend_;  // scratch for each thread
  Activations activations_;
};

}  // namespace quest
