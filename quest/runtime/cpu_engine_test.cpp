#include "quest/runtime/cpu_engine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "quest/packed/testing_packed.h"
#include "quest/runtime/engine_testing.h"
#include "quest/runtime/reference_model_testing.h"

namespace quest {
namespace {

using testing::all_logits;
using testing::decoded_logits;
using testing::same_bits;
using testing::some_tokens;
using testing::TemporaryFolder;

// Of the largest logit.
constexpr double kBound = 1e-4;

const char* const kRecipes[] = {"w1a1", "w2a2",  "w3a3",      "w4a4",           "w8a8",  "w4a8",
                                "w2a4", "fp4",   "int4_4of8", "w4a16",          "w1a16", "gauss2",
                                "bf16", "w16a4", "ternary",   "w4a4_nohadamard"};

double largest_of(const testing::Matrix& m) {
  double largest = 0;
  for (const auto& row : m) {
    for (const double v : row) largest = std::max(largest, std::abs(v));
  }
  return largest;
}

double largest_difference(const std::vector<float>& got, const testing::Matrix& want) {
  double worst = 0;
  size_t i = 0;
  for (const auto& row : want) {
    for (const double v : row) worst = std::max(worst, std::abs(got[i++] - v));
  }
  EXPECT_EQ(i, got.size());
  return worst;
}

// FP32 against double: sums of up to 208 products in each of 8 layers and 3 norms move a logit by
// some 1e-6 of the largest. The INT8 head rounds its input to 16 bits, a step of 3e-5 of the
// largest value of a row, for a BF16 head there is no such rounding. The seed is one for which no
// value lies so close to a decision that the difference flips its code (a flip shows as 4e-3 and
// more; without the transform sums are often exactly 0, which is a tie).
TEST(CpuEngine, EqualsThePlainModelInDoubleForEveryRecipe) {
  const TemporaryFolder folder;
  const auto tokens = some_tokens(9, /*seed=*/3);
  for (const char* recipe : kRecipes) {
    const PackedModel model(testing::write_small_packed_model(folder / recipe, recipe));
    const auto want = testing::ReferenceModel(model).logits(tokens);
    CpuEngine engine(PackedModel(folder / recipe), {.threads = 2});
    const double difference = largest_difference(all_logits(engine, tokens), want);
    EXPECT_LT(difference, kBound * largest_of(want)) << recipe;
  }
}

TEST(CpuEngine, SameBitsForEveryLevelThreadCountAndChunk) {
  const TemporaryFolder folder;
  const auto tokens = some_tokens(19);
  for (const char* recipe : kRecipes) {
    testing::write_small_packed_model(folder / recipe, recipe);
    for (const KvFormat kv : {KvFormat::kFp16, KvFormat::kInt8}) {
      std::vector<float> want;
      for (const IsaLevel level : available_isa_levels()) {
        for (const int threads : {1, 2, 4}) {
          if (threads == 4 && level != available_isa_levels().back()) continue;
          const int64_t chunk = std::array<int64_t, 4>{512, 3, 0, 17}[threads - 1];
          CpuEngine engine(PackedModel(folder / recipe),
                           {.threads = threads, .chunk = chunk, .kv = kv, .level = level});
          const auto got = all_logits(engine, tokens);
          if (want.empty()) want = got;
          ASSERT_TRUE(same_bits(got, want)) << recipe << ", " << isa_level_name(level)
                                            << ", threads " << threads << ", chunk " << chunk;
          if (threads == 2 || level == available_isa_levels().back()) {
            ASSERT_TRUE(same_bits(decoded_logits(engine, tokens), want)) << recipe;
          }
        }
      }
    }
  }
}

TEST(CpuEngine, BatchedSequencesOfDifferentLengthsAreAsAlone) {
  const TemporaryFolder folder;
  for (const char* recipe : {"w1a1", "w4a4", "w4a16", "bf16"}) {
    testing::write_small_packed_model(folder / recipe, recipe);
    CpuEngine engine(PackedModel(folder / recipe), {.threads = 2, .chunk = 3});
    const auto vocabulary = static_cast<size_t>(engine.config().vocab_size);
    constexpr size_t kSequences = 5;
    std::vector<SequenceId> ids;
    std::vector<std::vector<int32_t>> texts;
    std::vector<int32_t> next;
    for (size_t i = 0; i < kSequences; ++i) {
      ids.push_back(engine.add_sequence());
      texts.push_back(some_tokens(static_cast<int64_t>(1 + 9 * i), i));
      engine.prefill(ids.back(), texts.back(), {});
      next.push_back(static_cast<int32_t>(40 + i));
      texts.back().push_back(next.back());
    }
    std::vector<float> together(kSequences * vocabulary);
    engine.decode(ids, next, together);
    for (size_t i = 0; i < kSequences; ++i) {
      EXPECT_EQ(engine.length(ids[i]), static_cast<int64_t>(texts[i].size()));
      const auto alone = all_logits(engine, texts[i]);
      ASSERT_EQ(std::memcmp(alone.data() + alone.size() - vocabulary,
                            together.data() + i * vocabulary, vocabulary * sizeof(float)),
                0)
          << recipe << ", sequence " << i;
    }
  }
}

TEST(CpuEngine, TruncatedAndReusedPagesForget) {
  const TemporaryFolder folder;
  testing::write_small_packed_model(folder / "m", "w4a4");
  CpuEngine engine(PackedModel(folder / "m"), {.threads = 1});
  const auto tokens = some_tokens(64), other = some_tokens(64, 9);
  const auto want = all_logits(engine, tokens);
  const SequenceId s = engine.add_sequence();
  engine.prefill(s, other, {});
  const int64_t bytes = engine.cache_bytes();
  engine.truncate(s, 0);
  engine.prefill(s, std::span(tokens).first(30), {});
  engine.prefill(s, std::span(other).first(10), {});
  engine.truncate(s, 30);
  std::vector<float> last(261);
  engine.prefill(s, std::span(tokens).subspan(30), last);
  EXPECT_EQ(std::memcmp(last.data(), want.data() + 63 * 261, 261 * sizeof(float)), 0);
  EXPECT_EQ(engine.cache_bytes(), bytes);
}

TEST(CpuEngine, AnInt8CacheIsCloseToFp16) {
  const TemporaryFolder folder;
  for (const char* recipe : {"bf16", "w4a16"}) {
    testing::write_small_packed_model(folder / recipe, recipe);
    CpuEngine half(PackedModel(folder / recipe), {.threads = 1});
    CpuEngine bytes(PackedModel(folder / recipe), {.threads = 1, .kv = KvFormat::kInt8});
    const auto tokens = some_tokens(64);
    const auto want = all_logits(half, tokens), got = all_logits(bytes, tokens);
    double error = 0, power = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      error += std::pow(got[i] - want[i], 2);
      power += std::pow(want[i], 2);
    }
    // Codes of 8 bits with max|x| of 32 values as range: a step of some 2 % of the deviation.
    EXPECT_LT(std::sqrt(error / power), 2e-2) << recipe;
    EXPECT_GT(error, 0) << recipe;
  }
}

TEST(CpuEngine, TablesOfEveryFormatAndTiedHeads) {
  const TemporaryFolder folder;
  const auto tokens = some_tokens(7);
  int i = 0;
  for (const TableFormat embedding : {TableFormat::kBf16, TableFormat::kInt8, TableFormat::kInt4}) {
    for (const TableFormat head : {TableFormat::kBf16, TableFormat::kInt8, TableFormat::kInt4}) {
      for (const bool tied : {false, true}) {
        if (tied && embedding != head) continue;
        const auto path = folder / std::to_string(i++);
        LlamaConfig config = testing::small_llama(160);
        config.tie_word_embeddings = tied;
        write_random_packed_model(path, config, recipe_from_name("w4a16"),
                                  {.formats = {embedding, head}});
        const PackedModel model(path);
        const auto want = testing::ReferenceModel(model).logits(tokens);
        CpuEngine engine(PackedModel(path), {.threads = 2});
        EXPECT_LT(largest_difference(all_logits(engine, tokens), want), kBound * largest_of(want))
            << table_format_name(embedding) << " " << table_format_name(head) << " " << tied;
      }
    }
  }
}

TEST(CpuEngine, LongContextByRopeScaling) {
  const TemporaryFolder folder;
  LlamaConfig config = testing::small_llama();
  for (const char* type : {"dynamic", "linear", "llama3"}) {
    config.rope_scaling = {type, 4.0, 1.0, 4.0, 64};
    config.max_position_embeddings = std::string(type) == "dynamic" ? 64 : 256;
    write_random_packed_model(folder / type, config, recipe_from_name("w4a16"));
    const PackedModel model(folder / type);
    const auto tokens = some_tokens(150);
    const auto want = testing::ReferenceModel(model, true, 200).logits(tokens);
    CpuEngine engine(PackedModel(folder / type), {.threads = 2, .context = 200});
    EXPECT_EQ(engine.context_length(), 200);
    EXPECT_LT(largest_difference(all_logits(engine, tokens), want), kBound * largest_of(want))
        << type;
  }
}

TEST(CpuEngine, ScoresAreLogSoftmaxOfTheLogits) {
  const TemporaryFolder folder;
  testing::write_small_packed_model(folder / "m", "w4a4");
  CpuEngine engine(PackedModel(folder / "m"), {.threads = 2, .chunk = 10});
  auto tokens = some_tokens(65);
  const auto logits = all_logits(engine, std::span(tokens).first(64));
  const auto row = [&](size_t i) { return logits.data() + i * 261; };
  tokens[64] = static_cast<int32_t>(std::max_element(row(63), row(63) + 261) - row(63));
  std::vector<float> scores(64);
  std::vector<uint8_t> greedy(64);
  const SequenceId s = engine.add_sequence();
  engine.score(s, tokens, {scores, greedy});
  EXPECT_EQ(engine.length(s), 64);
  for (size_t i = 0; i < 64; ++i) {
    const float* x = row(i);
    const double largest = *std::max_element(x, x + 261);
    double sum = 0;
    for (int v = 0; v < 261; ++v) sum += std::exp(x[v] - largest);
    const int32_t target = tokens[i + 1];
    EXPECT_NEAR(scores[i], x[target] - largest - std::log(sum), 2e-6 * (1 + std::abs(largest)));
    EXPECT_EQ(greedy[i] != 0, std::max_element(x, x + 261) - x == target);
  }
  EXPECT_EQ(greedy[63], 1);
}

TEST(CpuEngine, RefusesWhatItCannotDo) {
  const TemporaryFolder folder;
  testing::write_small_packed_model(folder / "m", "w4a4");
  CpuEngine engine(PackedModel(folder / "m"), {.threads = 2, .chunk = 16});
  const SequenceId s = engine.add_sequence();
  std::vector<float> logits(261);
  const auto prefill = [&](std::vector<int32_t> tokens) { engine.prefill(s, tokens, logits); };
  EXPECT_QUEST_ERROR(prefill({}), ErrorKind::kUsage, "no tokens");
  EXPECT_QUEST_ERROR(prefill({1, 261}), ErrorKind::kData, "token 1 is 261");
  EXPECT_QUEST_ERROR(prefill({-1}), ErrorKind::kData, "is -1");
  EXPECT_QUEST_ERROR(prefill(some_tokens(65)), ErrorKind::kUsage, "the context holds 64");
  EXPECT_EQ(engine.length(s), 0);
  engine.prefill(s, some_tokens(64), {});
  const int32_t token = 1;
  EXPECT_QUEST_ERROR(engine.decode({&s, 1}, {&token, 1}, logits), ErrorKind::kUsage, "64 tokens");
  engine.truncate(s, 3);
  const std::vector<SequenceId> twins = {s, s};
  const std::vector<int32_t> two = {1, 2};
  std::vector<float> room(2 * 261);
  EXPECT_QUEST_ERROR(engine.decode(twins, two, room), ErrorKind::kUsage, "named twice");
  EXPECT_QUEST_ERROR(engine.decode({&s, 1}, {&token, 1}, room), ErrorKind::kUsage, "522");
  EXPECT_QUEST_ERROR(engine.truncate(s, 4), ErrorKind::kUsage, "cannot be cut to 4");
  EXPECT_QUEST_ERROR(engine.length(s + 1), ErrorKind::kUsage, "no sequence");
  engine.remove_sequence(s);
  EXPECT_QUEST_ERROR(engine.prefill(s, two, {}), ErrorKind::kUsage, "no sequence");

  const auto with = [&](const EngineOptions& options) {
    return CpuEngine(PackedModel(folder / "m"), options).context_length();
  };
  EXPECT_EQ(with({.threads = 1, .context = 8}), 8);
  EXPECT_QUEST_ERROR(with({.threads = 1, .context = 65}), ErrorKind::kUsage, "rope_scaling");
  EXPECT_QUEST_ERROR(with({.threads = 1, .chunk = 0}), ErrorKind::kUsage, "chunk");
  EXPECT_QUEST_ERROR(with({.threads = -2}), ErrorKind::kUsage, "-2");
  LlamaConfig odd = testing::small_llama();
  odd.head_dim = 24;
  write_random_packed_model(folder / "odd", odd, recipe_from_name("bf16"));
  EXPECT_QUEST_ERROR(
      CpuEngine(PackedModel(folder / "odd"), {.threads = 1, .kv = KvFormat::kInt8}).length(1),
      ErrorKind::kUsage, "head size 24");
}

TEST(CpuEngine, PlansNameEveryLayer) {
  const TemporaryFolder folder;
  testing::write_small_packed_model(folder / "m", "w1a1");
  CpuEngine engine(PackedModel(folder / "m"), {.threads = 1});
  const std::string plans = engine.plans();
  for (const char* name : {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head", "cache"}) {
    EXPECT_NE(plans.find(name), std::string::npos) << plans;
  }
}

}  // namespace
}  // namespace quest
