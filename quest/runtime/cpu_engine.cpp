#include "quest/runtime/cpu_engine.h"

#include <algorithm>
#include <cmath>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/kernels/rope.h"
#include "quest/quant/hadamard.h"
#include "quest/runtime/engine_checks.h"
#include "quest/runtime/table_view.h"

namespace quest {
namespace {

using kernels::deploy::kKvBlock;

// Floats; rows of threads lie on cache lines of their own.
constexpr int64_t kRowPadding = 16;
// Rows of the MLP that are computed at once: its width would make the largest scratch.
constexpr int64_t kMlpRows = 256;
// Rows of logits that are computed at once.
constexpr int64_t kLogitsRows = 32;
// Tokens of one task of attention in prefill: many enough to share the reads of the cache, few
// enough to deal out evenly.
constexpr int64_t kAttendTokens = 32;
// Positions of one task that fills the cache.
constexpr int64_t kAppendTokens = 64;

EngineOptions checked(EngineOptions options, const LlamaConfig& config) {
  options.context = checked_context(options.context, config);
  QUEST_CHECK(options.chunk >= 1 && options.chunk <= 1 << 16, ErrorKind::kUsage,
              "the chunk is {} tokens, allowed are 1 to 65536", options.chunk);
  if (options.kv == KvFormat::kInt8) {
    try {
      hadamard_block_size(config.head_dim);
    } catch (const Error&) {
      QUEST_THROW(ErrorKind::kUsage,
                  "an int8 cache rotates keys and values, but the head size {} is no multiple of "
                  "16: use fp16",
                  config.head_dim);
    }
  }
  return options;
}

}  // namespace

CpuEngine::CpuEngine(PackedModel model, const EngineOptions& options)
    : model_(std::move(model)),
      options_(checked(options, model_.config())),
      team_(options.threads),
      cache_(model_.config(), options.kv),
      rope_(make_rope_table(model_.config(), options_.context)) {
  const LlamaConfig& c = model_.config();
  const QuantSpec& activation = model_.recipe().activation;
  const IsaLevel level = options_.level;
  for (int64_t i = 0; i < model_.blocks(); ++i) {
    const PackedBlock& b = model_.block(i);
    const std::string prefix = fmt::format("model.layers.{}.", i);
    blocks_.push_back({b.input_norm, b.post_attention_norm,
                       PackedLinear(prefix + "self_attn.qkv_proj", b.qkv, activation, level),
                       PackedLinear(prefix + "self_attn.o_proj", b.o, activation, level),
                       PackedLinear(prefix + "mlp.gate_up_proj", b.gate_up, activation, level),
                       PackedLinear(prefix + "mlp.down_proj", b.down, activation, level)});
  }
  rows_.grow(team_.size() *
             divide_up(std::max({c.hidden_size, c.intermediate_size, c.q_size()}), kRowPadding) *
             kRowPadding);
  attend_.grow(team_.size() * kernels::deploy::attend_scratch_bytes(cache_.shape()));
}

CpuEngine::~CpuEngine() = default;

float* CpuEngine::thread_row(int thread) {
  return rows_.data() + rows_.size() / team_.size() * thread;
}

int64_t CpuEngine::scratch_bytes() const {
  return hidden_.bytes() + wide_.bytes() + normed_.bytes() + logits_.bytes() + head_input_.bytes() +
         rows_.bytes() + attend_.bytes() + activations_.codes.bytes() + activations_.units.bytes() +
         activations_.prepared.bytes() + activations_.values.bytes();
}

void CpuEngine::embed(std::span<const Segment> segments) {
  const int64_t c = config().hidden_size;
  const kernels::TableWeight table = table_view(model_.embedding());
  for (const Segment& segment : segments) {
    team_.for_each(static_cast<int64_t>(segment.tokens.size()), [&](int64_t i, int) {
      float* row = hidden_.data() + (segment.first_row + i) * c;
      kernels::table_row(table, segment.tokens[static_cast<size_t>(i)], row);
    });
  }
}

void CpuEngine::forward(std::span<const Segment> segments) {
  const LlamaConfig& c = config();
  const int64_t rows =
      segments.back().first_row + static_cast<int64_t>(segments.back().tokens.size());
  for (const Segment& s : segments) {
    cache_.reserve(*s.sequence, s.first_position + static_cast<int64_t>(s.tokens.size()));
  }
  hidden_.grow(rows * c.hidden_size);
  normed_.grow(rows * std::max(c.hidden_size, c.q_size()));
  wide_.grow(std::max(rows * (c.q_size() + 2 * c.kv_size()),
                      std::min(rows, kMlpRows) * 2 * c.intermediate_size));
  embed(segments);
  for (int64_t i = 0; i < model_.blocks(); ++i) {
    attention(i, segments, rows);
    mlp(blocks_[static_cast<size_t>(i)], rows);
  }
}

void CpuEngine::append_heads(int64_t index, const Segment& segment, int64_t kv_head, int64_t begin,
                             int64_t end) {
  const LlamaConfig& c = config();
  const int64_t dim = c.head_dim, stride = c.q_size() + 2 * c.kv_size();
  const int64_t group = c.num_heads / c.num_kv_heads;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t position = segment.first_position + t;
    const auto position32 = static_cast<int32_t>(position);
    float* row = wide_.data() + (segment.first_row + t) * stride;
    float* q = row + kv_head * group * dim;
    float* k = row + c.q_size() + kv_head * dim;
    float* v = row + c.q_size() + c.kv_size() + kv_head * dim;
    const auto turn = [&](float* x, int64_t heads) {
      kernels::rope(x, 1, stride, heads, dim, rope_.cos.data(), rope_.sin.data(), &position32, +1,
                    options_.level);
    };
    turn(q, group);
    turn(k, 1);
    if (options_.kv == KvFormat::kInt8) {
      kernels::hadamard_rows(q, group, dim, q, options_.level);
      kernels::hadamard_rows(k, 1, dim, k, options_.level);
      kernels::hadamard_rows(v, 1, dim, v, options_.level);
    }
    uint8_t* page = segment.sequence->pages[static_cast<size_t>(position / kKvBlock)];
    kernels::deploy::append_kv(cache_.shape(), k, v, position % kKvBlock,
                               page + cache_.head_offset(index, kv_head), options_.level);
  }
}

void CpuEngine::attend_heads(int64_t index, const Segment& segment, int64_t kv_head, int64_t begin,
                             int64_t end, int thread) {
  const LlamaConfig& c = config();
  const int64_t dim = c.head_dim, stride = c.q_size() + 2 * c.kv_size();
  const int64_t group = c.num_heads / c.num_kv_heads;
  float* out = normed_.data() + (segment.first_row + begin) * c.q_size() + kv_head * group * dim;
  kernels::deploy::AttendTask task;
  task.blocks = segment.sequence->pages.data();
  task.block_offset = cache_.head_offset(index, kv_head);
  task.q = wide_.data() + (segment.first_row + begin) * stride + kv_head * group * dim;
  task.q_stride = stride;
  task.tokens = end - begin;
  task.group = group;
  task.first_position = segment.first_position + begin;
  task.out = out;
  task.out_stride = c.q_size();
  uint8_t* scratch =
      attend_.data() + thread * kernels::deploy::attend_scratch_bytes(cache_.shape());
  kernels::deploy::attend(cache_.shape(), task, scratch, options_.level);
  if (options_.kv == KvFormat::kInt8) {
    for (int64_t t = 0; t < end - begin; ++t) {
      float* row = out + t * c.q_size();
      kernels::hadamard_rows(row, group, dim, row, options_.level);
    }
  }
}

void CpuEngine::attention(int64_t index, std::span<const Segment> segments, int64_t rows) {
  const LlamaConfig& c = config();
  const Block& block = blocks_[static_cast<size_t>(index)];
  const int64_t stride = c.q_size() + 2 * c.kv_size();
  block.qkv.begin(activations_, rows);
  team_.for_each(rows, [&](int64_t row, int thread) {
    block.qkv.set_normed_row(activations_, row, hidden_.data() + row * c.hidden_size,
                             block.input_norm, c.rms_norm_eps, thread_row(thread));
  });
  block.qkv.multiply(activations_, team_, wide_.data(), stride);

  const int64_t kv_heads = c.num_kv_heads;
  if (rows == static_cast<int64_t>(segments.size())) {  // one token each: one section for all
    team_.for_each(rows * kv_heads, [&](int64_t i, int thread) {
      const Segment& segment = segments[static_cast<size_t>(i / kv_heads)];
      append_heads(index, segment, i % kv_heads, 0, 1);
      attend_heads(index, segment, i % kv_heads, 0, 1, thread);
    });
  } else {
    for (const Segment& segment : segments) {
      const auto tokens = static_cast<int64_t>(segment.tokens.size());
      const int64_t appends = divide_up(tokens, kAppendTokens);
      team_.for_each(appends * kv_heads, [&](int64_t i, int) {
        const int64_t begin = i / kv_heads * kAppendTokens;
        append_heads(index, segment, i % kv_heads, begin, std::min(tokens, begin + kAppendTokens));
      });
      const int64_t tasks = divide_up(tokens, kAttendTokens);
      team_.for_each(tasks * kv_heads, [&](int64_t i, int thread) {
        const int64_t begin = (tasks - 1 - i / kv_heads) * kAttendTokens;  // the longest first
        attend_heads(index, segment, i % kv_heads, begin, std::min(tokens, begin + kAttendTokens),
                     thread);
      });
    }
  }

  block.o.begin(activations_, rows);
  team_.for_each(rows, [&](int64_t row, int) {
    block.o.set_row(activations_, row, normed_.data() + row * c.q_size());
  });
  block.o.multiply(activations_, team_, normed_.data(), c.hidden_size);
}

// The attention's output is added to the hidden row right before the row is read again.
void CpuEngine::mlp(const Block& block, int64_t rows) {
  const LlamaConfig& c = config();
  const int64_t width = c.hidden_size, inner = c.intermediate_size;
  for (int64_t first = 0; first < rows; first += kMlpRows) {
    const int64_t count = std::min(kMlpRows, rows - first);
    float* hidden = hidden_.data() + first * width;
    float* added = normed_.data() + first * width;
    block.gate_up.begin(activations_, count);
    team_.for_each(count, [&](int64_t row, int thread) {
      kernels::deploy::add(added + row * width, width, hidden + row * width, options_.level);
      block.gate_up.set_normed_row(activations_, row, hidden + row * width,
                                   block.post_attention_norm, c.rms_norm_eps, thread_row(thread));
    });
    block.gate_up.multiply(activations_, team_, wide_.data(), 2 * inner);
    block.down.begin(activations_, count);
    team_.for_each(count, [&](int64_t row, int thread) {
      float* x = thread_row(thread);
      kernels::deploy::swiglu(wide_.data() + row * 2 * inner, 1, inner, x, options_.level);
      block.down.set_row(activations_, row, x);
    });
    block.down.multiply(activations_, team_, added, width);
    team_.for_each(count, [&](int64_t row, int) {
      kernels::deploy::add(added + row * width, width, hidden + row * width, options_.level);
    });
  }
}

void CpuEngine::head(int64_t first, int64_t rows, float* out) {
  const LlamaConfig& c = config();
  const int64_t width = c.hidden_size;
  float* x = normed_.data();
  kernels::deploy::rms_norm(hidden_.data() + first * width, model_.final_norm().data(), rows, width,
                            static_cast<float>(c.rms_norm_eps), x, options_.level);
  const kernels::TableWeight table = table_view(model_.head());
  head_input_.grow(kernels::table_activation_bytes(table, rows, options_.level));
  kernels::prepare_table_activations(table, x, width, rows, head_input_.data(), options_.level);
  const ColumnTasks tasks = column_tasks(c.vocab_size, width, rows, team_.size());
  team_.for_each(tasks.count, [&](int64_t i, int) {
    const auto [n0, n1] = tasks.columns(i);
    kernels::table_gemm(table, head_input_.data(), rows, 0, rows, n0, n1, out, c.vocab_size,
                        options_.level);
  });
}

template <class Function>
void CpuEngine::over_logits(int64_t rows, const Function& f) {
  const int64_t vocabulary = config().vocab_size;
  const int64_t step = std::min(rows, kLogitsRows);
  logits_.grow(step * vocabulary);
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    head(first, count, logits_.data());
    f(first, count);
  }
}

void CpuEngine::forward_chunk(SequenceId sequence, std::span<const int32_t> tokens) {
  KvSequence& s = cache_.get(sequence);
  const Segment segment{&s, tokens, 0, s.length};
  forward({&segment, 1});
  s.length += static_cast<int64_t>(tokens.size());
}

void CpuEngine::prefill(SequenceId sequence, std::span<const int32_t> tokens,
                        std::span<float> logits) {
  check_request(*this, sequence, tokens, tokens.size());
  check_logits(*this, logits, 1);
  int64_t last = 0;
  for (auto rest = tokens; !rest.empty();) {
    const size_t count = std::min(rest.size(), static_cast<size_t>(options_.chunk));
    forward_chunk(sequence, rest.first(count));
    rest = rest.subspan(count);
    last = static_cast<int64_t>(count) - 1;
  }
  if (!logits.empty()) head(last, 1, logits.data());
}

void CpuEngine::prefill_all(SequenceId sequence, std::span<const int32_t> tokens,
                            const TokenLogits& row) {
  check_request(*this, sequence, tokens, tokens.size());
  const auto vocabulary = static_cast<size_t>(config().vocab_size);
  int64_t done = 0;
  for (auto rest = tokens; !rest.empty();) {
    const size_t count = std::min(rest.size(), static_cast<size_t>(options_.chunk));
    forward_chunk(sequence, rest.first(count));
    over_logits(static_cast<int64_t>(count), [&](int64_t first, int64_t rows) {
      for (int64_t i = 0; i < rows; ++i) {
        const float* logits = logits_.data() + static_cast<size_t>(i) * vocabulary;
        row(done + first + i, {logits, vocabulary});
      }
    });
    rest = rest.subspan(count);
    done += static_cast<int64_t>(count);
  }
}

void CpuEngine::score(SequenceId sequence, std::span<const int32_t> tokens, TokenScores scores) {
  check_scores(tokens, scores);
  check_request(*this, sequence, tokens, tokens.size() - 1);
  const int64_t vocabulary = config().vocab_size;
  size_t done = 0;
  while (done + 1 < tokens.size()) {
    const size_t count = std::min(tokens.size() - 1 - done, static_cast<size_t>(options_.chunk));
    forward_chunk(sequence, tokens.subspan(done, count));
    over_logits(static_cast<int64_t>(count), [&](int64_t first, int64_t rows) {
      team_.for_each(rows, [&](int64_t i, int) {
        const float* logits = logits_.data() + i * vocabulary;
        const size_t at = done + static_cast<size_t>(first + i);
        const int32_t target = tokens[at + 1];
        const auto sum = kernels::deploy::log_sum_exp(logits, vocabulary, options_.level);
        QUEST_CHECK(!std::isnan(sum.value), ErrorKind::kNumeric,
                    "the logits after token {} are not finite", at);
        scores.logprobs[at] =
            static_cast<float>(std::min(static_cast<double>(logits[target]) - sum.value, 0.0));
        if (!scores.is_greedy.empty()) {
          const bool largest = logits[target] == sum.largest &&
                               std::find(logits, logits + target, sum.largest) == logits + target;
          scores.is_greedy[at] = largest ? 1 : 0;
        }
      });
    });
    done += count;
  }
}

void CpuEngine::decode(std::span<const SequenceId> sequences, std::span<const int32_t> tokens,
                       std::span<float> logits) {
  check_decode(*this, sequences, tokens);
  QUEST_CHECK(!logits.empty(), ErrorKind::kUsage, "decode got no room for logits");
  check_logits(*this, logits, static_cast<int64_t>(tokens.size()));
  const auto vocabulary = static_cast<size_t>(config().vocab_size);
  for (size_t first = 0; first < sequences.size();) {
    const size_t count = std::min(sequences.size() - first, static_cast<size_t>(options_.chunk));
    std::vector<Segment> segments;
    for (size_t i = 0; i < count; ++i) {
      KvSequence& s = cache_.get(sequences[first + i]);
      segments.push_back({&s, tokens.subspan(first + i, 1), static_cast<int64_t>(i), s.length});
    }
    forward(segments);
    for (const Segment& segment : segments) ++segment.sequence->length;
    head(0, static_cast<int64_t>(count), logits.data() + first * vocabulary);
    first += count;
  }
}

std::string CpuEngine::plans() const {
  const QuantRecipe& recipe = model_.recipe();
  std::string text =
      fmt::format("{}: {} weights, {} activations\n{:<14} {:<8} {:>6} {:>6}  {:<28} {}\n",
                  recipe.name, to_string(recipe.weight), to_string(recipe.activation), "layer",
                  "blocks", "N", "K", "decode", fmt::format("prefill, {} rows", options_.chunk));
  const auto line = [&](std::string_view name, int64_t count, int64_t n, int64_t k,
                        const std::string& decode, const std::string& prefill) {
    text += fmt::format("{:<14} {:<8} {:>6} {:>6}  {:<28} {}\n", name,
                        count == 0 ? "" : fmt::format("{}", count), n, k, decode, prefill);
  };
  const Block& first = blocks_.front();
  for (const PackedLinear* layer : {&first.qkv, &first.o, &first.gate_up, &first.down}) {
    const std::string& name = layer->name();
    const int64_t rows = layer == &first.gate_up || layer == &first.down
                             ? std::min(options_.chunk, kMlpRows)
                             : options_.chunk;
    line(name.substr(name.rfind('.') + 1), model_.blocks(), layer->n(), layer->k(),
         layer->plan_text(1), layer->plan_text(rows));
  }
  const PackedTable& table = model_.head();
  line("lm_head", 0, table.rows, table.columns,
       kernels::table_plan_text(table_view(table), 1, options_.level),
       kernels::table_plan_text(table_view(table), kLogitsRows, options_.level));
  text += fmt::format("activations    {}\n", kernels::hadamard_quantize_plan(options_.level));
  text +=
      fmt::format("norms, SwiGLU, attention: {}\n", kernels::deploy::deploy_plan(options_.level));
  text += fmt::format("cache          {}, {} bytes a token, context {}\n",
                      options_.kv == KvFormat::kFp16 ? "fp16" : "int8, rotated",
                      cache_.page_bytes() / kKvBlock, options_.context);
  return text + fmt::format("threads        {}\n", team_.size());
}

}  // namespace quest
