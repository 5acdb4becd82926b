#include "quest/cli/verify_gpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "quest/base/shutdown.h"
#include "quest/ops/gpu.h"
#include "quest/quant/quantizer.h"
#include "quest/runtime/cpu_engine.h"
#include "quest/runtime_gpu/cuda_engine.h"

namespace quest::cli {
namespace {

constexpr int64_t kPromptTokens = 128;
constexpr size_t kSequencesAtOnce = 50;
// Logits of so many prompts are held at a time: 130 MB where there are 32000 tokens. A GPU reads
// the same tokens again sooner than the CPU has read them once.
constexpr size_t kPromptsHeld = 8;
// Of the prompts, as many are also read alone, and by the exact engine.
constexpr size_t kFew = 4;

using Logits = std::vector<float>;  // (T, V)
using Prompts = std::vector<std::span<const int32_t>>;

Prompts cut_prompts(std::span<const int32_t> tokens, int64_t context, int64_t count) {
  const auto length = static_cast<size_t>(std::min(kPromptTokens, context));
  Prompts prompts;
  while (!tokens.empty() && static_cast<int64_t>(prompts.size()) < count) {
    if (tokens.size() < length && !prompts.empty()) break;
    prompts.push_back(tokens.first(std::min(length, tokens.size())));
    tokens = tokens.subspan(prompts.back().size());
  }
  return prompts;
}

Logits read_at_once(Engine& engine, std::span<const int32_t> prompt) {
  stop_if_asked();
  const SequenceId s = engine.add_sequence();
  Logits all;
  all.reserve(prompt.size() * static_cast<size_t>(engine.config().vocab_size));
  engine.prefill_all(s, prompt, [&](int64_t, std::span<const float> row) {
    all.insert(all.end(), row.begin(), row.end());
  });
  engine.remove_sequence(s);
  return all;
}

// Prompts of one length, token by token, all in one step: logits of `held` of them from `first` on.
std::vector<Logits> read_by_token(Engine& engine, std::span<const std::span<const int32_t>> prompts,
                                  size_t first, size_t held) {
  const auto v = static_cast<size_t>(engine.config().vocab_size);
  std::vector<SequenceId> ids;
  for (size_t i = 0; i < prompts.size(); ++i) ids.push_back(engine.add_sequence());
  std::vector<Logits> all(held);
  for (Logits& logits : all) logits.reserve(prompts.front().size() * v);
  Logits rows(prompts.size() * v);
  std::vector<int32_t> next(prompts.size());
  for (size_t t = 0; t < prompts.front().size(); ++t) {
    stop_if_asked();
    for (size_t i = 0; i < prompts.size(); ++i) next[i] = prompts[i][t];
    engine.decode(ids, next, rows);
    for (size_t i = 0; i < held; ++i) {
      const auto begin = rows.begin() + static_cast<std::ptrdiff_t>((first + i) * v);
      all[i].insert(all[i].end(), begin, begin + static_cast<std::ptrdiff_t>(v));
    }
  }
  for (const SequenceId s : ids) engine.remove_sequence(s);
  return all;
}

Logits read_alone(Engine& engine, std::span<const int32_t> prompt) {
  return std::move(read_by_token(engine, {&prompt, 1}, 0, 1).front());
}

bool same_bits(const Logits& a, const Logits& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// How one way of computing agrees with the CPU's engine.
struct Agreement {
  int64_t positions = 0, greedy = 0;
  double difference = 0;  // the largest, over the largest logit of its row

  void add(const Logits& got, const Logits& want, size_t v) {
    for (size_t row = 0; row + v <= want.size(); row += v) {
      const float* a = got.data() + row;
      const float* b = want.data() + row;
      const auto largest = std::max_element(b, b + v);
      ++positions;
      greedy += std::max_element(a, a + v) - a == largest - b ? 1 : 0;
      for (size_t i = 0; i < v; ++i) {
        difference = std::max(difference, static_cast<double>(std::abs(a[i] - b[i])) /
                                              std::max(1e-30f, std::abs(*largest)));
      }
    }
  }
  double share() const { return static_cast<double>(greedy) / static_cast<double>(positions); }
};

void report(const char* name, const Agreement& agreement, GpuReport& out) {
  fmt::print(
      "gpu, {:<9} the likeliest token is the CPU's at {:.2f} % of {} positions (logits differ "
      "by {:.2g} of the largest at most)\n",
      name, 100 * agreement.share(), agreement.positions, agreement.difference);
  out.json[name] = {{"positions", agreement.positions},
                    {"greedy_agreement", agreement.share()},
                    {"largest_difference", agreement.difference}};
}

bool multiplies_codes(const QuantRecipe& recipe) {
  return recipe.weight.is_quantized() && recipe.activation.is_quantized() &&
         code_format(recipe.weight).is_integer && code_format(recipe.activation).is_integer;
}

}  // namespace

GpuReport verify_gpu(const std::filesystem::path& packed, std::span<const int32_t> tokens,
                     int64_t count) {
  CudaEngine exact(PackedModel(packed), {.numerics = CudaNumerics::kExact});
  CudaEngine fast(PackedModel(packed), {});
  CpuEngine cpu{PackedModel(packed)};
  const auto v = static_cast<size_t>(cpu.config().vocab_size);
  const Prompts prompts = cut_prompts(tokens, cpu.context_length(), count);
  GpuReport out;
  out.json["device"] = ops::gpu_description();
  out.json["prompts"] = prompts.size();
  Agreement at_once, by_token;
  int64_t exact_rows = 0, exact_equal = 0, alone = 0, alone_equal = 0;
  for (size_t first = 0; first < prompts.size(); first += kSequencesAtOnce) {
    const auto part =
        std::span(prompts).subspan(first, std::min(kSequencesAtOnce, prompts.size() - first));
    std::vector<Logits> stepped;
    for (size_t i = 0; i < part.size(); ++i) {
      const size_t slot = i % kPromptsHeld;
      if (slot == 0) {
        stepped.clear();
        stepped = read_by_token(fast, part, i, std::min(kPromptsHeld, part.size() - i));
      }
      const Logits want = read_at_once(cpu, part[i]);
      at_once.add(read_at_once(fast, part[i]), want, v);
      by_token.add(stepped[slot], want, v);
      if (first + i >= kFew) continue;
      const auto rows = static_cast<int64_t>(part[i].size());
      exact_rows += 2 * rows;
      exact_equal += same_bits(read_at_once(exact, part[i]), want) ? rows : 0;
      exact_equal += same_bits(read_alone(exact, part[i]), want) ? rows : 0;
      alone += rows;
      alone_equal += same_bits(read_alone(fast, part[i]), stepped[slot]) ? rows : 0;
    }
  }
  const bool bits = multiplies_codes(exact.model().recipe());
  fmt::print("gpu, exact     logits of {} of {} tokens have the bits of the CPU's{}\n", exact_equal,
             exact_rows, bits ? "" : " (products of values: not promised)");
  report("tokens", by_token, out);
  report("prompts", at_once, out);
  fmt::print("gpu, batches   logits of {} of {} tokens have the bits of a sequence alone\n",
             alone_equal, alone);
  out.json["exact"] = {{"tokens", exact_rows}, {"equal", exact_equal}};
  out.json["batches"] = {{"tokens", alone}, {"equal", alone_equal}};
  if (bits && exact_equal != exact_rows) {
    out.differences.push_back(fmt::format(
        "on the GPU (exact numerics) the logits of {} of {} tokens are not the CPU engine's",
        exact_rows - exact_equal, exact_rows));
  }
  if (bits && alone_equal != alone) {
    out.differences.push_back(
        fmt::format("on the GPU the logits of {} of {} tokens depend on what else was in the batch",
                    alone - alone_equal, alone));
  }
  return out;
}

}  // namespace quest::cli
