// The inside of CudaEngine: memory, steps of decode, prompts, their CUDA graphs. Of cuda_engine.cpp
// alone, whose functions check what they are given.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <fmt/format.h>

#include "quest/base/integer_math.h"
#include "quest/base/recently_used.h"
#include "quest/model/rope_table.h"
#include "quest/ops/attention.h"
#include "quest/ops/cuda_graph.h"
#include "quest/ops/gpu_errors.h"
#include "quest/quant/hadamard.h"
#include "quest/runtime_gpu/cuda/draws.h"
#include "quest/runtime_gpu/cuda/engine_parts.h"

namespace quest {

namespace gpu = kernels::cuda;
namespace deploy = kernels::cuda::deploy;
using namespace runtime_gpu;

class CudaEngine::Impl {
 public:
  // f on the engine's stream, without gradients, CUDA's errors as ours.
  template <class F>
  decltype(auto) enter(F&& f) {
    const c10::cuda::CUDAStreamGuard guard(stream_);
    const at::NoGradGuard no_gradients;
    return ops::with_gpu_errors(kAdvice, std::forward<F>(f));
  }

  Impl(PackedModel model, const CudaEngineOptions& options)
      : model_(std::move(model)),
        options_(checked(options, model_.config())),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true)),
        cache_({cache_format(options.kv), model_.config().num_layers, model_.config().num_kv_heads,
                model_.config().head_dim},
               options_.context) {
    enter([&] { load(); });
  }

  ~Impl() {
    try {
      stream_.synchronize();
    } catch (...) {  // a failed device says so where it is used
    }
  }

  const LlamaConfig& config() const { return model_.config(); }
  const PackedModel& model() const { return model_; }
  const CudaEngineOptions& options() const { return options_; }
  DeviceCache& cache() { return cache_; }
  const DeviceCache& cache() const { return cache_; }

  // All prompts; rows_done(segments, last rows) after each call whose logits somebody wants.
  // all: of every token; else of the last one of each prompt, if `last`.
  enum class Want { kNothing, kLast, kAll };
  template <class F>
  void read(std::span<const SequenceId> ids, std::span<const std::span<const int32_t>> tokens,
            Want want, const F& rows_done) {
    for (const bool few : {false, true}) {
      std::vector<Segment> segments;
      int64_t rows = 0;
      const int64_t most = few && !exact() ? kFewRows : options_.chunk;
      const auto flush = [&] {
        if (!segments.empty()) rows_done(segments, read_call(segments, rows, few, want));
        for (const Segment& s : segments) s.sequence->length += s.count();
        segments.clear();
        rows = 0;
      };
      for (size_t i = 0; i < ids.size(); ++i) {
        if (reads_as_few(static_cast<int64_t>(tokens[i].size())) != few) continue;
        for (auto rest = tokens[i]; !rest.empty();) {
          const auto count = std::min(rest.size(), static_cast<size_t>(most));
          if (rows + static_cast<int64_t>(count) > most) flush();
          DeviceSequence& sequence = cache_.get(ids[i]);
          segments.push_back({&sequence, rest.first(count), rows, sequence.length,
                              static_cast<int64_t>(i), count == rest.size()});
          rows += static_cast<int64_t>(count);
          rest = rest.subspan(count);
          // Its next piece attends to this one, which must be in the cache by then.
          if (!rest.empty()) flush();
        }
      }
      flush();
    }
  }

  // logits (rows, V) on the device of at most kFewRows rows.
  const at::Tensor& head(const float* hidden, const float* delta, int64_t rows) {
    const LlamaConfig& c = config();
    deploy::add_norm(hidden, delta, pointer<float>(final_norm_), eps(), rows, c.hidden_size,
                     pointer<float>(normed_), pointer<float>(normed_), ops::current_stream());
    gpu::table_gemm(head_->view(), pointer<float>(normed_), c.hidden_size, rows,
                    head_workspace_.data_ptr(), pointer<float>(logits_), c.vocab_size,
                    ops::current_stream());
    return logits_;
  }

  // f(first row, logits (count, V) on the device, count)
  template <class F>
  void over_logits(const LastRows& last, const F& f) {
    for (int64_t first = 0; first < last.rows; first += kFewRows) {
      const int64_t count = std::min(kFewRows, last.rows - first);
      const int64_t at = first * config().hidden_size;
      head(pointer<float>(last.hidden) + at, pointer<float>(last.delta) + at, count);
      f(first, logits_, count);
    }
  }

  // Host copies of `count` rows of logits. Throws kNumeric for one that is not finite.
  void take_logits(int64_t count, float* out) {
    const int64_t v = config().vocab_size;
    at::from_blob(out, {count, v}, at::kFloat).copy_(logits_.narrow(0, 0, count));
    for (int64_t i = 0; i < count; ++i) {
      QUEST_CHECK(!std::isnan(out[i * v]), ErrorKind::kNumeric,
                  "the values of row {} of this call are not finite: the model is damaged or its "
                  "training diverged",
                  i);
    }
  }

  // The next step of sequences that got their tokens by fill_step(): logits_ (n, V).
  void step(int64_t n, int64_t pieces) {
    run_blocks(n, pieces);
    run_head(n, pieces);
  }

  // Tokens, slots and positions of one token for each sequence; the pieces that attention needs
  // until all have `more` tokens more.
  int64_t fill_step(std::span<const SequenceId> ids, std::span<const int32_t> tokens,
                    int64_t more) {
    std::vector<Segment> segments;
    int64_t longest = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      DeviceSequence& s = cache_.get(ids[i]);
      cache_.reserve(s, s.length + more);
      longest = std::max(longest, s.length + more);
      segments.push_back({&s, tokens.subspan(i, 1), static_cast<int64_t>(i), s.length,
                          static_cast<int64_t>(i), true});
    }
    fill(decode_, segments, static_cast<int64_t>(ids.size()));
    return pieces_for(longest);
  }

  // Behind step(): the likeliest, or the drawn tokens become those of the next step.
  void choose_greedy(int64_t n) {
    gpu::argmax_rows(pointer<float>(logits_), n, config().vocab_size, config().vocab_size,
                     row_tokens(decode_), ops::current_stream());
  }
  void choose_drawn(const Draws& draws, int64_t n) {
    gpu::sample_rows(pointer<float>(logits_), n, config().vocab_size, config().vocab_size,
                     static_cast<gpu::SampleRow*>(draws.rows.data_ptr()), row_tokens(decode_),
                     ops::current_stream());
  }

  // `steps` times a step of each part of the sequences, behind which choose(n) makes the next
  // tokens. begin(first, n) comes before a part's first step. out (steps, sequences).
  template <class Begin, class Choose>
  void decode_steps(std::span<const SequenceId> ids, std::span<const int32_t> tokens, int64_t steps,
                    std::span<int32_t> out, const Begin& begin, const Choose& choose) {
    const auto n = static_cast<int64_t>(ids.size());
    for (int64_t first = 0; first < n; first += kFewRows) {
      const int64_t count = std::min(n - first, kFewRows);
      const auto part = ids.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
      begin(first, count);
      const int64_t pieces = fill_step(
          part, tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(count)), steps);
      const at::Tensor written = at::empty({steps, count}, on_gpu(at::kInt));
      for (int64_t i = 0; i < steps; ++i) {
        step(count, pieces);
        choose(count);
        decode_.rows_of.narrow(0, 2 * count, count).add_(1);
        written.select(0, i).copy_(step_tokens(count));
      }
      const at::Tensor host = written.cpu();
      for (int64_t i = 0; i < steps; ++i) {
        for (int64_t s = 0; s < count; ++s) {
          const int32_t token = pointer<int32_t>(host)[i * count + s];
          QUEST_CHECK(token >= 0, ErrorKind::kNumeric,
                      "no token can be chosen for sequence {} at step {}: its logits are not "
                      "finite, or all are -inf",
                      part[static_cast<size_t>(s)], i);
          out[static_cast<size_t>(i * n + first + s)] = token;
        }
      }
      for (const SequenceId s : part) cache_.get(s).length += steps;
    }
  }

  StepSeconds time_step(int64_t n, int64_t pieces, int64_t repeats) {
    step(n, pieces);  // recorded, warm
    const auto seconds = [&](const auto& work) {
      at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
      begin.record();
      for (int64_t i = 0; i < repeats; ++i) work();
      end.record();
      end.synchronize();
      return static_cast<double>(begin.elapsed_time(end)) * 1e-3 / static_cast<double>(repeats);
    };
    StepSeconds result;
    result.blocks = seconds([&] { run_blocks(n, pieces); });
    result.head = seconds([&] { run_head(n, pieces); });
    return result;
  }

  at::Tensor step_tokens(int64_t n) const { return decode_.rows_of.narrow(0, 0, n); }
  std::string plans() const;

  int64_t weight_bytes() const {
    int64_t sum = embedding_->bytes() + (head_ == embedding_ ? 0 : head_->bytes()) +
                  bytes_of({final_norm_, cos_, sin_});
    for (const DeviceBlock& b : blocks_) {
      for (const DeviceLinear* layer : b.linears()) sum += layer->bytes();
      sum += bytes_of({b.input_norm, b.post_attention_norm});
    }
    return sum;
  }
  int64_t scratch_bytes() const {
    return decode_.bytes() + prompt_.bytes() +
           bytes_of({normed_, logits_, head_workspace_, split_workspace_, products_unpacked_}) +
           graph_bytes();
  }

 private:
  struct Recorded {
    at::cuda::CUDAGraph blocks, head;
  };
  struct PromptGraph {
    int64_t uses = 0;
    bool recorded = false;
    at::cuda::CUDAGraph graph;
    at::Tensor kept;
    LastRows last;
  };

  bool exact() const { return options_.numerics == CudaNumerics::kExact; }
  float eps() const { return static_cast<float>(config().rms_norm_eps); }
  bool reads_as_few(int64_t tokens) const {
    return exact() || tokens <= kFewRows || !flash_supports();
  }
  bool splits_attention() const {
    return !exact() && deploy::attend_split_supports(cache_.layout());
  }
  // BF16 prompts go through LibTorch's attention.
  bool flash_supports() const { return config().head_dim % 8 == 0 && config().head_dim <= 256; }
  int64_t qkv_size() const { return config().q_size() + 2 * config().kv_size(); }

  void load() {
    const LlamaConfig& c = config();
    embedding_ = std::make_shared<DeviceTableMemory>(model_.embedding());
    head_ = c.tie_word_embeddings ? embedding_ : std::make_shared<DeviceTableMemory>(model_.head());
    const auto floats = [](std::span<const float> values) {
      return runtime_gpu::to_device(values.data(), static_cast<int64_t>(values.size()), at::kFloat);
    };
    final_norm_ = floats(model_.final_norm());
    const RopeTable rope = make_rope_table(c, options_.context);
    cos_ = floats(rope.cos);
    sin_ = floats(rope.sin);
    const QuantSpec& activation = model_.recipe().activation;
    const runtime_gpu::LinearSettings settings{exact(), options_.unpacked_weights};
    for (int64_t i = 0; i < model_.blocks(); ++i) {
      const PackedBlock& b = model_.block(i);
      const std::string prefix = fmt::format("model.layers.{}.", i);
      blocks_.push_back({floats(b.input_norm), floats(b.post_attention_norm),
                         DeviceLinear(prefix + "self_attn.qkv_proj", b.qkv, activation, settings),
                         DeviceLinear(prefix + "self_attn.o_proj", b.o, activation, settings),
                         DeviceLinear(prefix + "mlp.gate_up_proj", b.gate_up, activation, settings),
                         DeviceLinear(prefix + "mlp.down_proj", b.down, activation, settings)});
      for (const DeviceLinear* layer : blocks_.back().linears()) {
        unpacked_bytes_ = std::max(unpacked_bytes_, layer->unpacked_bytes());
      }
    }
    decodes_rows_in_one_ = std::all_of(blocks_.begin(), blocks_.end(),
                                       [](const DeviceBlock& b) { return b.decodes_in_one(); });
    allocate(decode_, kFewRows, at::kFloat);
    logits_ = at::empty({kFewRows, c.vocab_size}, on_gpu(at::kFloat));
    normed_ = at::empty({kFewRows, c.hidden_size}, on_gpu(at::kFloat));
    head_workspace_ =
        at::empty({gpu::table_workspace_bytes(head_->view(), kFewRows)}, on_gpu(at::kByte));
    stream_.synchronize();
  }

  void allocate(Buffers& b, int64_t rows, at::ScalarType type) {
    const LlamaConfig& c = config();
    const int64_t widest = std::max({c.hidden_size, c.q_size(), c.intermediate_size});
    b = Buffers();
    Buffers fresh;  // nothing of it stays where memory does not suffice for all
    fresh.rows = rows;
    fresh.hidden = at::empty({rows, c.hidden_size}, on_gpu(type));
    fresh.delta = at::empty({rows, c.hidden_size}, on_gpu(type));
    fresh.wide = at::empty({rows * std::max(qkv_size(), 2 * c.intermediate_size)}, on_gpu(type));
    fresh.attended = at::empty({rows, c.q_size()}, on_gpu(type));
    const int64_t longest = std::max(c.q_size(), c.intermediate_size);
    fresh.chunks = at::empty({divide_up(longest, int64_t{128})}, on_gpu(at::kFloat));
    fresh.signs = at::empty({divide_up(longest, int64_t{32})}, on_gpu(at::kInt));
    fresh.rows_of = at::empty({3 * rows}, on_gpu(at::kInt));
    fresh.products.codes = at::empty({rows * widest}, on_gpu(at::kChar));
    fresh.products.units = at::empty({rows}, on_gpu(at::kFloat));
    bool values = false;
    for (const DeviceLinear* layer : blocks_.front().linears()) {
      values |= layer->takes_values(1) || layer->takes_values(rows);
    }
    if (values) fresh.products.values = at::empty({rows * widest}, on_gpu(type));
    b = std::move(fresh);
  }

  Buffers& prompt_buffers(int64_t rows, at::ScalarType type) {
    if (prompt_.rows < rows || prompt_.hidden.scalar_type() != type) {
      prompt_graphs_.clear();
      prompt_ = Buffers();
      allocate(prompt_, std::min(options_.chunk, power_of_two_from(rows)), type);
      if (prompt_.rows < rows) allocate(prompt_, rows, type);
    }
    return prompt_;
  }

  // Rows of segments in device memory, by way of pinned memory that no copy still reads.
  void fill(Buffers& b, std::span<const Segment> segments, int64_t rows) {
    if (!staging_.defined() || staging_.numel() < 3 * rows) {
      staged_.synchronize();
      staging_ = at::empty({3 * std::max(rows, kFewRows)},
                           at::TensorOptions(at::kInt).pinned_memory(true));
    }
    staged_.synchronize();
    auto* token = pointer<int32_t>(staging_);
    int32_t *slot = token + rows, *position = slot + rows;
    for (const Segment& s : segments) {
      for (int64_t t = 0; t < s.count(); ++t) {
        *token++ = s.tokens[static_cast<size_t>(t)];
        *slot++ = s.sequence->slot;
        *position++ = static_cast<int32_t>(s.first_position + t);
      }
    }
    b.rows_of.narrow(0, 0, 3 * rows).copy_(staging_.narrow(0, 0, 3 * rows), /*non_blocking=*/true);
    staged_.record();
  }

  static int32_t* row_tokens(const Buffers& b) { return pointer<int32_t>(b.rows_of); }
  deploy::KvRows kv_rows(const Buffers& b, int64_t rows) const {
    return {row_tokens(b) + rows, row_tokens(b) + 2 * rows, rows};
  }

  // Few different ones, so that few graphs are recorded; 1 where attention is not split.
  int64_t pieces_for(int64_t positions) {
    if (!splits_attention()) return 1;
    const int64_t pieces = deploy::planned_pieces(deploy::attend_pieces(positions));
    if (pieces <= split_pieces_) return pieces;
    const LlamaConfig& c = config();
    const int64_t bytes = deploy::attend_split_workspace(kFewRows, c.num_heads, c.head_dim, pieces);
    graphs_.clear();  // they use the old one
    split_workspace_ = at::Tensor();
    split_pieces_ = 1;
    if (bytes > 0) split_workspace_ = at::zeros({bytes}, on_gpu(at::kByte));
    split_pieces_ = pieces;
    return pieces;
  }
  deploy::SplitPlan split_plan(int64_t pieces) const {
    return {pieces, pieces > 1 ? split_workspace_.data_ptr() : nullptr, kFewRows};
  }

  // One row for each sequence (one_each) or rows of prompts, in FP32.
  void attend_rows(int64_t layer, Buffers& b, int64_t rows, int64_t pieces, bool one_each) {
    attend_rows(layer, b, rows, pieces, one_each, {pointer<float>(b.attended)});
  }
  // to: with signs only for one row, and where attend_rotates().
  void attend_rows(int64_t layer, Buffers& b, int64_t rows, int64_t pieces, bool one_each,
                   const deploy::AttendOut& to) {
    const auto view = cache_.view();
    const auto at = kv_rows(b, rows);
    auto* qkv = pointer<float>(b.wide);
    const auto* cos = pointer<float>(cos_);
    const auto* sin = pointer<float>(sin_);
    const int64_t heads = config().num_heads;
    const gpu::Stream stream = ops::current_stream();
    if (splits_attention() && one_each) {
      deploy::decode_attention(view, layer, qkv, heads, cos, sin, at, split_plan(pieces), to,
                               stream);
      return;
    }
    deploy::rope_append<float>(view, layer, qkv, heads, cos, sin, at, stream);
    if (splits_attention()) {
      deploy::attend_split(view, layer, qkv, heads, at, split_plan(pieces), to.values, stream);
    } else {
      deploy::attend_exact(view, layer, qkv, heads, at, to.values, stream);
    }
  }

  // Rows of prompts in BF16, by LibTorch's attention: all at once where they are alike.
  at::Tensor attend_prompts(int64_t layer, Buffers& b, std::span<const Segment> segments,
                            int64_t rows) {
    const LlamaConfig& c = config();
    deploy::rope_append<bfloat16>(cache_.view(), layer, pointer<bfloat16>(b.wide), c.num_heads,
                                  pointer<float>(cos_), pointer<float>(sin_), kv_rows(b, rows),
                                  ops::current_stream());
    if (are_alike(segments)) {
      return attend_fresh(b, 0, static_cast<int64_t>(segments.size()), segments.front().count());
    }
    for (const Segment& s : segments) {
      b.attended.narrow(0, s.first_row, s.count())
          .copy_(s.first_position == 0 ? attend_fresh(b, s.first_row, 1, s.count())
                                       : attend_continued(layer, b, s));
    }
    return b.attended;
  }

  // (B, T, (H + 2G) D) of rows from `row` on.
  at::Tensor qkv_of(const Buffers& b, int64_t row, int64_t batch, int64_t tokens) const {
    return at::from_blob(pointer<bfloat16>(b.wide) + row * qkv_size(), {batch, tokens, qkv_size()},
                         on_gpu(at::kBFloat16));
  }
  // (rows, H D) of prompts that begin at position 0.
  at::Tensor attend_fresh(const Buffers& b, int64_t row, int64_t batch, int64_t tokens) const {
    const LlamaConfig& c = config();
    return ops::rotated_self_attention(qkv_of(b, row, batch, tokens),
                                       {c.num_heads, c.num_kv_heads, c.head_dim})
        .view({batch * tokens, c.q_size()});
  }

  // The same of a piece behind others, which are read back from the cache.
  at::Tensor attend_continued(int64_t layer, const Buffers& b, const Segment& s) const {
    const LlamaConfig& c = config();
    const int64_t keys = s.first_position + s.count();
    const at::Tensor k = at::empty({1, keys, c.num_kv_heads, c.head_dim}, on_gpu(at::kBFloat16));
    const at::Tensor v = at::empty_like(k);
    deploy::gather_kv<bfloat16>(cache_.view(), layer, s.sequence->slot, keys, pointer<bfloat16>(k),
                                pointer<bfloat16>(v), ops::current_stream());
    const at::Tensor q = qkv_of(b, s.first_row, 1, s.count())
                             .view({1, s.count(), qkv_size() / c.head_dim, c.head_dim})
                             .narrow(2, 0, c.num_heads);
    return ops::rotated_attention_to(q, k, v).view({s.count(), c.q_size()});
  }

  // How a call's rows attend, and which of them go on after the last block's attention.
  struct Call {
    std::span<const Segment> segments;
    int64_t rows = 0, pieces = 1;
    bool one_each = false;
    bool all_rows = true;  // else those of `kept` alone (int64, on the device), none if undefined
    at::Tensor kept;
  };

  // A step of one row, each linear layer with what is before and after it in one kernel: b.hidden
  // and b.delta.
  void decode_row(Buffers& b, int64_t pieces) {
    auto *hidden = pointer<float>(b.hidden), *wide = pointer<float>(b.wide);
    gpu::table_rows<float>(embedding_->view(), row_tokens(b), 1, hidden, ops::current_stream());
    const auto normed = [&](const at::Tensor& weight) {
      return deploy::NormedRow{hidden, pointer<float>(weight), eps()};
    };
    auto *const attended = pointer<float>(b.attended), *const chunks = pointer<float>(b.chunks);
    auto* const signs = std::bit_cast<uint32_t*>(pointer<int32_t>(b.signs));
    const bool rotates = splits_attention() && deploy::attend_rotates(cache_.view().layout);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const DeviceBlock& block = blocks_[i];
      block.qkv.decode(normed(block.input_norm), {wide});
      const bool o_signs = rotates && block.o.takes_signs();
      deploy::AttendOut to = {attended};
      if (o_signs) {
        const bool hadamard = block.o.input_spec().hadamard;
        const int width = hadamard ? static_cast<int>(hadamard_block_size(block.o.k())) : 1;
        to = {nullptr, signs, chunks, width};
        std::tie(to.next, to.next_bytes) = block.gate_up.late_weights();
      }
      attend_rows(static_cast<int64_t>(i), b, 1, pieces, /*one_each=*/true, to);
      const deploy::DecodeOut sum = {hidden, hidden};
      if (o_signs) {
        block.o.decode(deploy::SignRow{signs, chunks}, sum);
      } else {
        block.o.decode(deploy::GivenRow{attended}, sum);
      }
      deploy::SwigluMemory memory = {wide};
      if (block.down.takes_signs()) memory = {nullptr, signs, chunks};
      const deploy::SwigluRow inner = block.gate_up.decode_pairs(normed(block.post_attention_norm),
                                                                 block.down.input_spec(), memory);
      // Behind the last block head() adds the two.
      const bool last = i + 1 == blocks_.size();
      block.down.decode(inner, last ? deploy::DecodeOut{pointer<float>(b.delta)} : sum);
    }
  }

  // Blocks on the rows that b.rows_of names. Returns what is left of the rows wanted.
  template <class T>
  LastRows blocks(Buffers& b, const Call& call) {
    const LlamaConfig& c = config();
    const int64_t width = c.hidden_size, inner = c.intermediate_size;
    int64_t rows = call.rows;
    at::Tensor hidden = b.hidden, delta = b.delta, attended = b.attended;
    gpu::table_rows<T>(embedding_->view(), row_tokens(b), rows, pointer<T>(hidden),
                       ops::current_stream());
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const DeviceBlock& block = blocks_[i];
      const auto layer = static_cast<int64_t>(i);
      const bool last = i + 1 == blocks_.size();
      add_norm_quantize(block.qkv.input_spec(), pointer<T>(hidden),
                        i == 0 ? nullptr : pointer<T>(delta), pointer<float>(block.input_norm),
                        eps(), rows, width, block.qkv.input<T>(b.products, rows));
      block.qkv.multiply<T>(b.products, rows, pointer<T>(b.wide));
      if constexpr (std::is_same_v<T, float>) {
        attend_rows(layer, b, rows, call.pieces, call.one_each);
      } else {
        attended = attend_prompts(layer, b, call.segments, rows);
      }
      if (last && !call.all_rows) {
        if (!call.kept.defined()) return {};
        rows = call.kept.size(0);
        hidden = at::index_select(hidden, 0, call.kept);
        attended = at::index_select(attended, 0, call.kept);
      }
      quantize(block.o.input_spec(), pointer<T>(attended), rows, c.q_size(),
               block.o.input<T>(b.products, rows));
      block.o.multiply<T>(b.products, rows, pointer<T>(delta));
      add_norm_quantize(block.gate_up.input_spec(), pointer<T>(hidden), pointer<T>(delta),
                        pointer<float>(block.post_attention_norm), eps(), rows, width,
                        block.gate_up.input<T>(b.products, rows));
      block.gate_up.multiply<T>(b.products, rows, pointer<T>(b.wide));
      swiglu_quantize(block.down.input_spec(), pointer<T>(b.wide), rows, inner,
                      block.down.input<T>(b.products, rows));
      block.down.multiply<T>(b.products, rows, pointer<T>(delta));
    }
    hidden = hidden.narrow(0, 0, rows);
    delta = delta.narrow(0, 0, rows);
    return {hidden.to(at::kFloat), delta.to(at::kFloat), rows};
  }

  LastRows read_call(std::span<const Segment> segments, int64_t rows, bool few, Want want) {
    int64_t longest = 0;
    for (const Segment& s : segments) {
      cache_.reserve(*s.sequence, s.first_position + s.count());
      longest = std::max(longest, s.first_position + s.count());
    }
    Call call;
    call.segments = segments;
    call.rows = rows;
    call.all_rows = want == Want::kAll;
    if (few) call.pieces = pieces_for(longest);
    Buffers& b =
        few && rows <= kFewRows ? decode_ : prompt_buffers(rows, few ? at::kFloat : at::kBFloat16);
    share_unpacked(b);
    fill(b, segments, rows);
    PromptGraph* graph = few ? nullptr : prompt_graph(segments, rows, want);
    if (graph != nullptr && graph->recorded) {
      graph->graph.replay();
      return graph->last;
    }
    call.kept = kept_rows(segments, want);
    if (graph != nullptr && ++graph->uses > 2) {
      // Until it has worked: it takes memory beside what a plain run takes.
      records_prompts_ = false;
      graph->kept = call.kept;
      record(graph->graph, graph_pool(), [&] { graph->last = blocks<bfloat16>(b, call); });
      graph->recorded = records_prompts_ = true;
      graph->graph.replay();
      return graph->last;
    }
    return few ? blocks<float>(b, call) : blocks<bfloat16>(b, call);
  }

  // The last row of each prompt that ends, if its logits are wanted.
  at::Tensor kept_rows(std::span<const Segment> segments, Want want) const {
    std::vector<int64_t> rows;
    for (const Segment& s : segments) {
      if (want == Want::kLast && s.ends_prompt) rows.push_back(s.first_row + s.count() - 1);
    }
    if (rows.empty()) return {};
    return runtime_gpu::to_device(rows.data(), static_cast<int64_t>(rows.size()), at::kLong);
  }

  // Whether a call is the first of whole prompts of one length.
  static bool are_alike(std::span<const Segment> segments) {
    const int64_t count = segments.front().count();
    return std::all_of(segments.begin(), segments.end(), [&](const Segment& s) {
      return s.count() == count && s.first_position == 0;
    });
  }

  // Prompts of a shape that came before, twice, are read by a recorded graph: the host is slower
  // than the GPU in starting the kernels of few rows one by one. Null where that does not apply.
  PromptGraph* prompt_graph(std::span<const Segment> segments, int64_t rows, Want want) {
    constexpr int64_t kRecordedRows = 4096;
    const bool whole = std::all_of(segments.begin(), segments.end(),
                                   [](const Segment& s) { return s.ends_prompt; });
    if (!options_.graphs || !records_prompts_ || rows > kRecordedRows || want == Want::kAll ||
        !whole || !are_alike(segments)) {
      return nullptr;
    }
    if (prompt_graphs_version_ != cache_.version()) prompt_graphs_.clear();
    prompt_graphs_version_ = cache_.version();
    const auto key = std::tuple(static_cast<int64_t>(segments.size()), rows, want);
    if (PromptGraph* graph = prompt_graphs_.find(key)) return graph;
    return &prompt_graphs_.add(key, std::make_unique<PromptGraph>());
  }

  // Memory that weights are unpacked into, one for all calls.
  void share_unpacked(Buffers& b) {
    if (!products_unpacked_.defined() && unpacked_bytes_ > 0) {
      products_unpacked_ = at::empty({unpacked_bytes_}, on_gpu(at::kByte));
    }
    b.products.unpacked = products_unpacked_;
  }

  void step_blocks(int64_t n, int64_t pieces) {
    if (n == 1 && decodes_rows_in_one_) return decode_row(decode_, pieces);
    Call call;
    call.rows = n;
    call.pieces = pieces;
    call.one_each = true;
    blocks<float>(decode_, call);
  }
  void step_head(int64_t n) {
    head(pointer<float>(decode_.hidden), pointer<float>(decode_.delta), n);
  }
  // The same, by the recorded graphs if there are any.
  void run_blocks(int64_t n, int64_t pieces) {
    options_.graphs ? recorded(n, pieces).blocks.replay() : step_blocks(n, pieces);
  }
  void run_head(int64_t n, int64_t pieces) {
    options_.graphs ? recorded(n, pieces).head.replay() : step_head(n);
  }

  // Calls of CUDA in other threads do not end a recording of this one.
  template <class F>
  static void record(at::cuda::CUDAGraph& graph, at::cuda::MempoolId_t pool, const F& work) {
    ops::record_graph(graph, work, pool, cudaStreamCaptureModeThreadLocal);
  }

  // Memory of LibTorch's allocator that all graphs share: they run one after the other, and what
  // one leaves (PromptGraph::last) is used before another runs. {0, 0}, a new pool, if there are
  // none.
  at::cuda::MempoolId_t graph_pool() const {
    for (const auto& [key, graph] : graphs_) return graph->blocks.pool();
    for (const auto& [key, graph] : prompt_graphs_) {
      if (graph->recorded) return graph->graph.pool();
    }
    return {0, 0};
  }
  int64_t graph_bytes() const {
    const at::cuda::MempoolId_t pool = graph_pool();
    int64_t sum = 0;
    if (pool == at::cuda::MempoolId_t{0, 0}) return sum;
    for (const auto& segment : c10::cuda::CUDACachingAllocator::snapshot().segments) {
      if (segment.owner_private_pool_id == pool) sum += static_cast<int64_t>(segment.total_size);
    }
    return sum;
  }

  // Libraries make their handles and choose their algorithms in a first, plain run.
  Recorded& recorded(int64_t n, int64_t pieces) {
    if (graphs_version_ != cache_.version()) graphs_.clear();
    graphs_version_ = cache_.version();
    const std::pair key(n, pieces);
    if (Recorded* known = graphs_.find(key)) return *known;
    step_blocks(n, pieces);
    step_head(n);
    stream_.synchronize();
    auto fresh = std::make_unique<Recorded>();
    record(fresh->blocks, graph_pool(), [&] { step_blocks(n, pieces); });
    record(fresh->head, fresh->blocks.pool(), [&] { step_head(n); });
    return graphs_.add(key, std::move(fresh));
  }

  PackedModel model_;
  CudaEngineOptions options_;
  c10::cuda::CUDAStream stream_;
  DeviceCache cache_;
  std::vector<DeviceBlock> blocks_;
  std::shared_ptr<DeviceTableMemory> embedding_, head_;
  at::Tensor final_norm_, cos_, sin_;

  Buffers decode_;      // FP32, kFewRows rows, at fixed addresses for the graphs
  Buffers prompt_;      // BF16, or FP32 for exact prompts
  at::Tensor staging_;  // pinned
  at::cuda::CUDAEvent staged_;
  at::Tensor products_unpacked_;
  int64_t unpacked_bytes_ = 0;
  bool decodes_rows_in_one_ = false;
  at::Tensor normed_, logits_, head_workspace_;  // kFewRows rows
  at::Tensor split_workspace_;
  int64_t split_pieces_ = 1;
  // Of steps, by sequences and pieces.
  RecentlyUsed<std::pair<int64_t, int64_t>, Recorded> graphs_{kStepGraphs};
  int64_t graphs_version_ = -1;
  // By sequences, rows and what is wanted.
  RecentlyUsed<std::tuple<int64_t, int64_t, Want>, PromptGraph> prompt_graphs_{kPromptGraphs};
  int64_t prompt_graphs_version_ = -1;
  bool records_prompts_ = true;
};

}  // namespace quest
