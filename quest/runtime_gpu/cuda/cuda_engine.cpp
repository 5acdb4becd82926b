#include "quest/runtime_gpu/cuda_engine.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quest/kernels/cuda/score_rows.h"
#include "quest/runtime/random_prompts.h"
#include "quest/runtime_gpu/cuda/engine_impl.h"

namespace quest {

namespace {

// A layer's products by how many rows there are, at most `chunk`.
std::string products_text(const DeviceLinear& layer, int64_t chunk) {
  std::string text, last;
  for (const int64_t rows : {int64_t{1}, layer.few_rows() + 1, kFewRows + 1}) {
    const std::string plan = layer.plan_text(rows);
    if (rows > chunk || plan == last) continue;
    text += last.empty() ? plan : fmt::format("; from {} rows: {}", rows, plan);
    last = plan;
  }
  return text;
}

}  // namespace

std::string CudaEngine::Impl::plans() const {
  const QuantRecipe& recipe = model_.recipe();
  std::string text =
      fmt::format("{}: {} weights, {} activations\n{:<14} {:<8} {:>6} {:>6}  {}\n", recipe.name,
                  to_string(recipe.weight), to_string(recipe.activation), "layer", "blocks", "N",
                  "K", "product");
  for (const DeviceLinear* layer : blocks_.front().linears()) {
    const std::string& name = layer->name();
    text +=
        fmt::format("{:<14} {:<8} {:>6} {:>6}  {}\n", name.substr(name.rfind('.') + 1),
                    model_.blocks(), layer->n(), layer->k(), products_text(*layer, options_.chunk));
  }
  text += fmt::format("{:<14} {:<8} {:>6} {:>6}  {}\n", "lm_head", "", head_->view().rows,
                      head_->view().columns, gpu::table_gemm_plan(head_->view()));
  text += fmt::format("one row        {}\n", decodes_rows_in_one_
                                                 ? "quantizers, norms and SwiGLU in the products"
                                                 : "quantizers in kernels of their own");
  const char* const few = splits_attention() ? "split sums" : "the CPU engine's order";
  text += fmt::format("attention      tokens: {}; prompts: {}\n", few,
                      reads_as_few(options_.chunk) ? few : "LibTorch's, BF16");
  const char* const kv = options_.kv == CudaKvFormat::kBf16   ? "bf16"
                         : options_.kv == CudaKvFormat::kFp16 ? "fp16"
                                                              : "int8, rotated";
  text += fmt::format("cache          {}, {} bytes a token, context {}\n", kv,
                      cache_.layout().page_bytes() / deploy::kPagePositions, options_.context);
  return text + fmt::format("device         {}\n", ops::gpu_description());
}

CudaEngine::CudaEngine(PackedModel model, const CudaEngineOptions& options)
    : impl_(std::make_unique<Impl>(std::move(model), options)) {}
CudaEngine::~CudaEngine() = default;

const LlamaConfig& CudaEngine::config() const { return impl_->config(); }
const PackedModel& CudaEngine::model() const { return impl_->model(); }
int64_t CudaEngine::context_length() const { return impl_->options().context; }
SequenceId CudaEngine::add_sequence() {
  return impl_->enter([&] { return impl_->cache().add(); });
}
void CudaEngine::remove_sequence(SequenceId sequence) { impl_->cache().remove(sequence); }
int64_t CudaEngine::length(SequenceId sequence) const {
  return impl_->cache().get(sequence).length;
}
void CudaEngine::truncate(SequenceId sequence, int64_t length) {
  impl_->cache().truncate(sequence, length);
}

void CudaEngine::prefill(SequenceId sequence, std::span<const int32_t> tokens,
                         std::span<float> logits) {
  prefill_batch({&sequence, 1}, {&tokens, 1}, logits);
}

void CudaEngine::prefill_batch(std::span<const SequenceId> sequences,
                               std::span<const std::span<const int32_t>> tokens,
                               std::span<float> logits) {
  QUEST_CHECK(sequences.size() == tokens.size(), ErrorKind::kUsage,
              "{} sequences and {} prompts were given: one belongs to each", sequences.size(),
              tokens.size());
  std::vector<int32_t> first;
  for (size_t i = 0; i < sequences.size(); ++i) {
    check_request(*this, sequences[i], tokens[i], tokens[i].size());
    first.push_back(tokens[i].front());
  }
  check_decode(*this, sequences, first);
  check_logits(*this, logits, static_cast<int64_t>(sequences.size()));
  const int64_t v = config().vocab_size;
  impl_->enter([&] {
    impl_->read(sequences, tokens, logits.empty() ? Impl::Want::kNothing : Impl::Want::kLast,
                [&](std::span<const Segment> segments, const LastRows& last) {
                  std::vector<int64_t> owners;
                  for (const Segment& s : segments) {
                    if (s.ends_prompt) owners.push_back(s.owner);
                  }
                  std::vector<float> rows;
                  impl_->over_logits(last, [&](int64_t begin, const at::Tensor&, int64_t count) {
                    rows.resize(static_cast<size_t>(count * v));
                    impl_->take_logits(count, rows.data());
                    for (int64_t i = 0; i < count; ++i) {
                      std::copy_n(rows.data() + i * v, v,
                                  logits.data() + owners[static_cast<size_t>(begin + i)] * v);
                    }
                  });
                });
  });
}

void CudaEngine::prefill_all(SequenceId sequence, std::span<const int32_t> tokens,
                             const TokenLogits& row) {
  check_request(*this, sequence, tokens, tokens.size());
  const auto v = static_cast<size_t>(config().vocab_size);
  int64_t done = 0;
  impl_->enter([&] {
    impl_->read({&sequence, 1}, {&tokens, 1}, Impl::Want::kAll,
                [&](std::span<const Segment>, const LastRows& last) {
                  std::vector<float> rows(static_cast<size_t>(std::min(last.rows, kFewRows)) * v);
                  impl_->over_logits(last, [&](int64_t first, const at::Tensor&, int64_t count) {
                    impl_->take_logits(count, rows.data());
                    for (int64_t i = 0; i < count; ++i) {
                      row(done + first + i, {rows.data() + static_cast<size_t>(i) * v, v});
                    }
                  });
                  done += last.rows;
                });
  });
}

void CudaEngine::score(SequenceId sequence, std::span<const int32_t> tokens, TokenScores scores) {
  check_scores(tokens, scores);
  check_request(*this, sequence, tokens, tokens.size() - 1);
  const std::span<const int32_t> read = tokens.first(tokens.size() - 1);
  impl_->enter([&] {
    const at::Tensor targets =
        runtime_gpu::to_device(tokens.data() + 1, static_cast<int64_t>(read.size()), at::kInt);
    const at::Tensor logprobs = at::empty({targets.size(0)}, on_gpu(at::kFloat));
    const at::Tensor greedy = at::empty({targets.size(0)}, on_gpu(at::kByte));
    int64_t done = 0;
    impl_->read(
        {&sequence, 1}, {&read, 1}, Impl::Want::kAll,
        [&](std::span<const Segment>, const LastRows& last) {
          impl_->over_logits(last, [&](int64_t first, const at::Tensor& logits, int64_t count) {
            const int64_t at = done + first;
            deploy::score_rows(pointer<float>(logits), pointer<int32_t>(targets) + at, count,
                               config().vocab_size, pointer<float>(logprobs) + at,
                               pointer<uint8_t>(greedy) + at, ops::current_stream());
          });
          done += last.rows;
        });
    at::from_blob(scores.logprobs.data(), {done}, at::kFloat).copy_(logprobs);
    if (!scores.is_greedy.empty()) {
      at::from_blob(scores.is_greedy.data(), {done}, at::kByte).copy_(greedy);
    }
  });
  for (size_t i = 0; i < scores.logprobs.size(); ++i) {
    QUEST_CHECK(!std::isnan(scores.logprobs[i]), ErrorKind::kNumeric,
                "the logits after token {} are not finite", i);
  }
}

void CudaEngine::decode(std::span<const SequenceId> sequences, std::span<const int32_t> tokens,
                        std::span<float> logits) {
  check_decode(*this, sequences, tokens);
  QUEST_CHECK(!logits.empty(), ErrorKind::kUsage, "decode got no room for logits");
  check_logits(*this, logits, static_cast<int64_t>(tokens.size()));
  impl_->enter([&] {
    for (size_t first = 0; first < sequences.size(); first += kFewRows) {
      const size_t count = std::min(sequences.size() - first, static_cast<size_t>(kFewRows));
      const auto part = sequences.subspan(first, count);
      const int64_t pieces = impl_->fill_step(part, tokens.subspan(first, count), 1);
      impl_->step(static_cast<int64_t>(count), pieces);
      impl_->take_logits(static_cast<int64_t>(count),
                         logits.data() + first * static_cast<size_t>(config().vocab_size));
      for (const SequenceId s : part) ++impl_->cache().get(s).length;
    }
  });
}

namespace {

void check_repeats(int64_t repeats) {
  QUEST_CHECK(repeats >= 1, ErrorKind::kUsage, "{} repeats are no time: at least one is", repeats);
}

void check_steps(const CudaEngine& engine, std::span<const SequenceId> sequences,
                 std::span<const int32_t> tokens, int64_t steps, std::span<const int32_t> out) {
  check_decode(engine, sequences, tokens, steps);
  const auto n = static_cast<int64_t>(sequences.size());
  QUEST_CHECK(steps >= 1 && static_cast<int64_t>(out.size()) == steps * n, ErrorKind::kUsage,
              "{} steps of {} sequences give {} tokens, room for {} was given", steps, n, steps * n,
              out.size());
}

void check_settings(const SamplerSettings& settings, int64_t vocabulary) {
  validate(settings);
  for (const auto& [token, bias] : settings.logit_bias) {
    QUEST_CHECK(token < vocabulary, ErrorKind::kUsage,
                "logit_bias names token {}, the last one is {}", token, vocabulary - 1);
  }
}

}  // namespace

void CudaEngine::decode_greedy(std::span<const SequenceId> sequences,
                               std::span<const int32_t> tokens, int64_t steps,
                               std::span<int32_t> out) {
  check_steps(*this, sequences, tokens, steps, out);
  impl_->enter([&] {
    impl_->decode_steps(
        sequences, tokens, steps, out, [](int64_t, int64_t) {},
        [&](int64_t count) { impl_->choose_greedy(count); });
  });
}

void CudaEngine::decode_sampled(std::span<const SequenceId> sequences,
                                std::span<const int32_t> tokens,
                                std::span<const SamplerSettings> settings, int64_t steps,
                                std::span<int32_t> out,
                                std::span<const std::span<const int32_t>> previous) {
  check_steps(*this, sequences, tokens, steps, out);
  const size_t n = sequences.size();
  QUEST_CHECK(settings.size() == 1 || settings.size() == n, ErrorKind::kUsage,
              "{} sampler settings were given for {} sequences: give one for all or one for each",
              settings.size(), n);
  QUEST_CHECK(previous.empty() || previous.size() == n, ErrorKind::kUsage,
              "previous tokens of {} sequences were given, {} are decoded", previous.size(), n);
  const int64_t v = config().vocab_size;
  for (const SamplerSettings& s : settings) check_settings(s, v);
  std::vector<DrawnSequence> drawn;
  for (size_t i = 0; i < n; ++i) {
    drawn.push_back({&settings[settings.size() == 1 ? 0 : i],
                     previous.empty() ? std::span<const int32_t>() : previous[i],
                     length(sequences[i]) + 1});
  }
  impl_->enter([&] {
    Draws draws;
    impl_->decode_steps(
        sequences, tokens, steps, out,
        [&](int64_t first, int64_t count) {
          draws = draws_of(
              std::span(drawn).subspan(static_cast<size_t>(first), static_cast<size_t>(count)), v);
        },
        [&](int64_t count) { impl_->choose_drawn(draws, count); });
  });
}

CudaEngine::StepSeconds CudaEngine::time_decode(std::span<const SequenceId> sequences,
                                                int64_t repeats) {
  const std::vector<int32_t> tokens(sequences.size(), 0);
  check_decode(*this, sequences, tokens);
  QUEST_CHECK(sequences.size() <= static_cast<size_t>(kFewRows), ErrorKind::kUsage,
              "{} sequences are timed in one step, at most {} can be", sequences.size(), kFewRows);
  check_repeats(repeats);
  return impl_->enter([&] {
    const int64_t pieces = impl_->fill_step(sequences, tokens, 1);
    return impl_->time_step(static_cast<int64_t>(sequences.size()), pieces, repeats);
  });
}

double CudaEngine::time_prefill(int64_t sequences, int64_t tokens, int64_t repeats) {
  QUEST_CHECK(sequences >= 1 && tokens >= 1 && tokens <= context_length(), ErrorKind::kUsage,
              "{} prompts of {} tokens cannot be timed: one or more, of 1 to {} tokens", sequences,
              tokens, context_length());
  check_repeats(repeats);
  const auto prompts = random_prompts(sequences, tokens, config().vocab_size);
  const auto spans = views_of(prompts);
  std::vector<SequenceId> ids;
  for (int64_t s = 0; s < sequences; ++s) ids.push_back(add_sequence());
  const auto remove_all = [&] {
    for (const SequenceId s : ids) remove_sequence(s);
  };
  const auto work = [&] {
    const auto once = [&] {
      impl_->read(ids, spans, Impl::Want::kLast,
                  [&](std::span<const Segment>, const LastRows& last) {
                    impl_->over_logits(last, [](int64_t, const at::Tensor&, int64_t) {});
                  });
    };
    double sum = 0;
    for (int64_t i = -3; i < repeats; ++i) {  // the third call of a shape records its graph
      for (const SequenceId s : ids) impl_->cache().get(s).length = 0;  // its pages stay
      at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
      begin.record();
      once();
      end.record();
      end.synchronize();
      if (i >= 0) sum += static_cast<double>(begin.elapsed_time(end)) * 1e-3;
    }
    return sum / static_cast<double>(repeats);
  };
  try {
    const double seconds = impl_->enter(work);
    remove_all();
    return seconds;
  } catch (...) {
    remove_all();
    throw;
  }
}

std::string CudaEngine::plans() const { return impl_->plans(); }
int64_t CudaEngine::weight_bytes() const { return impl_->weight_bytes(); }
int64_t CudaEngine::cache_bytes() const { return impl_->cache().bytes(); }
int64_t CudaEngine::scratch_bytes() const { return impl_->scratch_bytes(); }

}  // namespace quest
