#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>

#include "quest/base/error.h"
#include "quest/convert/deploy_reference.h"
#include "quest/convert/verify.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/kernels/packed_gemm.h"
#include "quest/runtime/aligned_buffer.h"
#include "quest/runtime/cpu_engine.h"
#include "quest/runtime/table_view.h"

namespace quest::convert {
namespace {

const PackedTensor& tensor_of(const PackedModel& model, const LayerProduct& product) {
  const PackedBlock& block = model.block(product.block);
  return *std::array{&block.qkv, &block.o, &block.gate_up, &block.down}[product.layer];
}

// The sums of all rows at once, and of the first row alone: products of many and of few rows are
// different plans.
void compare_sums(const PackedModel& model, const LayerProduct& product, int64_t rows,
                  IsaLevel level, std::set<std::string>& plans, VerifyResult& result) {
  const kernels::PackedWeight w = weight_view(tensor_of(model, product));
  const QuantSpec& activation = model.recipe().activation;
  const kernels::PackedPlan plan =
      kernels::choose_packed_plan(w.spec, activation, rows, w.k, level);
  plans.insert(kernels::packed_plan_text(plan));
  AlignedBuffer<uint8_t> prepared(kernels::activation_bytes(plan, rows, w.k));
  kernels::prepare_activations(plan, product.codes.data(), rows, w.k, prepared.data());
  std::vector<float> out(static_cast<size_t>(rows * w.n));
  std::vector<int32_t> sums(out.size());
  kernels::packed_gemm(plan, w, {prepared.data(), product.units.data(), rows}, 0, rows, 0, w.n,
                       out.data(), w.n, sums.data());
  result.accumulators += rows * w.n;
  const auto [found, expected] = std::mismatch(sums.begin(), sums.end(), product.sums.begin());
  if (found == sums.end()) return;
  const int64_t at = found - sums.begin();
  result.differences.push_back(
      fmt::format("{}: the sum of row {}, column {} is {} by {}, {} by the definition",
                  packed_layer_name(product.block, packed_layers(model.config())[product.layer]),
                  at / w.n, at % w.n, *found, kernels::packed_plan_text(plan), *expected));
}

// Logits of the engine after each token of prompt and continuation, and the continuation.
struct EngineRun {
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // (tokens, V)
};

int32_t largest(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

EngineRun run_engine(CpuEngine& engine, std::span<const int32_t> prompt, int64_t greedy) {
  EngineRun run;
  run.tokens.assign(prompt.begin(), prompt.end());
  const auto v = static_cast<size_t>(engine.config().vocab_size);
  const SequenceId sequence = engine.add_sequence();
  engine.prefill_all(sequence, prompt, [&](int64_t, std::span<const float> row) {
    run.logits.insert(run.logits.end(), row.begin(), row.end());
  });
  std::vector<float> row(v);
  for (int64_t i = 0; i < greedy; ++i) {
    const int32_t next = largest(std::span(run.logits).last(v));
    run.tokens.push_back(next);
    engine.decode({&sequence, 1}, {&next, 1}, row);
    run.logits.insert(run.logits.end(), row.begin(), row.end());
  }
  engine.remove_sequence(sequence);
  return run;
}

void compare_logits(const EngineRun& run, const DeployReference& reference, int64_t prompt,
                    VerifyResult& result) {
  const size_t v = run.logits.size() / run.tokens.size();
  std::string first_logit, first_token;
  for (size_t t = 0; t < run.tokens.size(); ++t) {
    const std::span<const float> found = std::span(run.logits).subspan(t * v, v);
    const std::span<const float> expected = reference.logits(static_cast<int64_t>(t));
    result.logits += static_cast<int64_t>(v);
    for (size_t i = 0; i < v; ++i) {
      if (std::memcmp(&found[i], &expected[i], sizeof(float)) == 0) continue;
      const float difference = std::abs(found[i] - expected[i]);
      result.largest_logit_difference = std::max(result.largest_logit_difference, difference);
      if (!first_logit.empty()) continue;
      first_logit = fmt::format("logit {} after token {} is {}, by the definition {}", i, t,
                                found[i], expected[i]);
    }
    if (static_cast<int64_t>(t) + 1 < prompt || t + 1 == run.tokens.size()) continue;
    ++result.greedy_tokens;
    if (largest(expected) == run.tokens[t + 1] || !first_token.empty()) continue;
    first_token = fmt::format("greedy token {} is {}, by the definition {}", t + 1,
                              run.tokens[t + 1], largest(expected));
  }
  for (const std::string& text : {first_logit, first_token}) {
    if (!text.empty()) result.differences.push_back(text);
  }
}

}  // namespace

void verify_run(const std::filesystem::path& packed_folder, const CheckpointLayers& checkpoint,
                std::span<const int32_t> prompt, int64_t greedy, VerifyResult& result) {
  CpuEngine engine{PackedModel(packed_folder)};
  const PackedModel& model = engine.model();
  check_same_model(model, checkpoint);
  const int64_t room = model.config().max_position_embeddings;
  QUEST_CHECK(!prompt.empty() && static_cast<int64_t>(prompt.size()) + greedy <= room,
              ErrorKind::kUsage,
              "{} tokens to read and {} to write were asked for: the model takes 1 to {} in all",
              prompt.size(), greedy, room);
  const EngineRun run = run_engine(engine, prompt, greedy);
  DeployReference reference(checkpoint, model.embedding(), model.head());
  std::set<std::string> plans;
  reference.run(run.tokens, [&](const LayerProduct& product) {
    for (const IsaLevel level : available_isa_levels()) {
      if (level > isa_level()) continue;
      compare_sums(model, product, product.rows, level, plans, result);
      compare_sums(model, product, 1, level, plans, result);
    }
  });
  result.plans.assign(plans.begin(), plans.end());
  compare_logits(run, reference, static_cast<int64_t>(prompt.size()), result);
}

}  // namespace quest::convert
