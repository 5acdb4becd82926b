// The engine on a GPU next to the CPU's. Skipped where no GPU can be used.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/ops/gpu.h"
#include "quest/ops/testing_gpu.h"
#include "quest/packed/testing_packed.h"
#include "quest/runtime/cpu_engine.h"
#include "quest/runtime/engine_testing.h"
#include "quest/runtime/random_prompts.h"
#include "quest/runtime_gpu/cuda_engine.h"

namespace quest {
namespace {

using testing::all_logits;
using testing::decoded_logits;
using testing::same_bits;
using testing::some_tokens;
using testing::TemporaryFolder;

class CudaEngineTest : public testing::GpuTest {};

constexpr int64_t kVocabulary = testing::kSmallVocabulary;

// A model whose context holds more than a page and a piece of attention, with key-value heads of
// their own or shared.
PackedModel longer_model(const std::filesystem::path& folder, std::string_view recipe,
                         int64_t kv_heads = 2, TableFormat tables = TableFormat::kInt8) {
  LlamaConfig config = testing::small_llama(160);
  config.num_kv_heads = kv_heads;
  config.max_position_embeddings = 700;
  write_random_packed_model(folder, config, recipe_from_name(recipe),
                            {.formats = {tables, tables}});
  return PackedModel(folder);
}

std::vector<float> last_logits(Engine& engine, SequenceId s, std::span<const int32_t> tokens) {
  std::vector<float> row(static_cast<size_t>(engine.config().vocab_size));
  engine.prefill(s, tokens, row);
  return row;
}

// The largest difference over the largest value.
double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference = std::max(difference, static_cast<double>(std::abs(a[i] - b[i])));
    largest = std::max(largest, static_cast<double>(std::abs(b[i])));
  }
  return std::isfinite(difference) ? difference / largest : INFINITY;
}

const CudaEngineOptions kExact{.numerics = CudaNumerics::kExact};

// Packed 4:8 weights have no product of their own: int8 tensor cores or values.
bool has_integer_products(std::string_view recipe) {
  return recipe != "int4_4of8" || ops::gpu_has_fast_products();
}

TEST_F(CudaEngineTest, ExactHasTheBitsOfTheCpuEngine) {
  const TemporaryFolder folder;
  const auto tokens = some_tokens(37);
  for (const char* recipe : {"w1a1", "w2a2", "w3a3", "w4a4", "w8a8", "w4a8", "w2a4", "w5a5", "fp4",
                             "int4_4of8", "ternary", "w4a4_nohadamard"}) {
    if (!has_integer_products(recipe)) continue;
    testing::write_small_packed_model(folder / recipe, recipe);
    for (const bool int8 : {false, true}) {
      CpuEngine cpu(PackedModel(folder / recipe),
                    {.threads = 2, .kv = int8 ? KvFormat::kInt8 : KvFormat::kFp16});
      CudaEngineOptions options = kExact;
      options.kv = int8 ? CudaKvFormat::kInt8 : CudaKvFormat::kFp16;
      options.chunk = int8 ? 5 : 0;
      CudaEngine engine(PackedModel(folder / recipe), options);
      const auto want = all_logits(cpu, tokens);
      EXPECT_TRUE(same_bits(all_logits(engine, tokens), want)) << recipe << " int8 " << int8;
      EXPECT_TRUE(same_bits(decoded_logits(engine, tokens), want)) << recipe << " int8 " << int8;
    }
  }
}

TEST_F(CudaEngineTest, ExactHasThemForEveryTableAndLongPrompts) {
  const TemporaryFolder folder;
  const auto tokens = some_tokens(600);
  for (const TableFormat tables : {TableFormat::kInt8, TableFormat::kInt4, TableFormat::kBf16}) {
    const std::string name(table_format_name(tables));
    longer_model(folder / name, "w4a4", 2, tables);
    CpuEngine cpu(PackedModel(folder / name), {.threads = 2});
    CudaEngine engine(PackedModel(folder / name), kExact);
    EXPECT_TRUE(same_bits(all_logits(engine, tokens), all_logits(cpu, tokens))) << name;
  }
}

TEST_F(CudaEngineTest, ScoresAreTheCpuEngines) {
  const TemporaryFolder folder;
  longer_model(folder / "m", "w2a2");
  const auto tokens = some_tokens(150);
  CpuEngine cpu(PackedModel(folder / "m"), {.threads = 2});
  CudaEngine engine(PackedModel(folder / "m"), kExact);
  const auto scores = [&](Engine& e) {
    const SequenceId s = e.add_sequence();
    std::vector<float> logprobs(tokens.size() - 1);
    std::vector<uint8_t> greedy(tokens.size() - 1);
    e.score(s, tokens, {logprobs, greedy});
    EXPECT_EQ(e.length(s), static_cast<int64_t>(tokens.size()) - 1);
    return std::pair(logprobs, greedy);
  };
  const auto want = scores(cpu), got = scores(engine);
  EXPECT_TRUE(same_bits(got.first, want.first));
  EXPECT_EQ(got.second, want.second);
}

// Products of values go through cuBLAS and TF32-free FP32 sums in its order.
TEST_F(CudaEngineTest, RecipesWithoutIntegerProductsAreNearTheCpuEngine) {
  const TemporaryFolder folder;
  const auto tokens = some_tokens(37, 3);
  for (const char* recipe : {"w4a16", "w1a16", "gauss2", "bf16", "w16a4", "int4_4of8"}) {
    if (recipe == std::string_view("int4_4of8") && has_integer_products(recipe)) continue;
    testing::write_small_packed_model(folder / recipe, recipe);
    CpuEngine cpu(PackedModel(folder / recipe), {.threads = 2});
    CudaEngine engine(PackedModel(folder / recipe), kExact);
    const auto want = all_logits(cpu, tokens);
    EXPECT_LT(relative_difference(all_logits(engine, tokens), want), 1e-2) << recipe;
    EXPECT_LT(relative_difference(decoded_logits(engine, tokens), want), 1e-2) << recipe;
  }
}

// ||a - b|| / ||b||
double distance(const std::vector<float>& a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::isfinite(difference) ? std::sqrt(difference / size) : INFINITY;
}

// Codes flip where values are rounded to BF16 or sums are split: with random weights the logits
// move by some hundredths of their size, at one bit, where a flip is a sign, by a quarter. Those of
// another token or position are at a distance above 1.
TEST_F(CudaEngineTest, FastIsNearTheCpuEngine) {
  const TemporaryFolder folder;
  const auto tokens = some_tokens(330, 5);
  const auto start = std::span(tokens).first(270);
  for (const char* recipe : {"w4a4", "w1a1", "w8a8", "bf16", "int4_4of8"}) {
    for (const int64_t kv_heads : {2, 6}) {
      const std::filesystem::path path = folder / (recipe + std::to_string(kv_heads));
      longer_model(path, recipe, kv_heads);
      CpuEngine cpu(PackedModel(path), {.threads = 2});
      const auto want = all_logits(cpu, tokens);
      for (const CudaKvFormat kv : {CudaKvFormat::kBf16, CudaKvFormat::kInt8}) {
        CudaEngine whole(PackedModel(path), {.kv = kv});
        EXPECT_LT(distance(all_logits(whole, tokens), want), 0.4) << recipe;
        CudaEngine pieces(PackedModel(path), {.chunk = 100, .kv = kv});
        EXPECT_LT(distance(all_logits(pieces, tokens), want), 0.4) << recipe;
        EXPECT_LT(distance(decoded_logits(whole, start),
                           std::span(want).first(start.size() * kVocabulary)),
                  0.4)
            << recipe;
      }
    }
  }
}

TEST_F(CudaEngineTest, UnpackedWeightsAndGraphsChangeNoBit) {
  const TemporaryFolder folder;
  const auto tokens = some_tokens(300, 5);
  for (const char* recipe : {"w4a4", "w2a2"}) {
    longer_model(folder / recipe, recipe);
    CudaEngine engine(PackedModel(folder / recipe), {});
    CudaEngine other(PackedModel(folder / recipe), {.unpacked_weights = true, .graphs = false});
    if (ops::gpu_has_fast_products()) {
      EXPECT_GT(other.weight_bytes(), engine.weight_bytes());
    } else {
      EXPECT_EQ(other.weight_bytes(), engine.weight_bytes()) << "nothing multiplies int8 weights";
    }
    EXPECT_TRUE(same_bits(all_logits(other, tokens), all_logits(engine, tokens))) << recipe;
    EXPECT_TRUE(same_bits(decoded_logits(other, std::span(tokens).first(70)),
                          decoded_logits(engine, std::span(tokens).first(70))))
        << recipe;
    for (uint64_t seed = 0; seed < 5; ++seed) {  // the third is recorded, the others replayed
      const auto prompt = some_tokens(150, seed);
      const SequenceId a = engine.add_sequence(), b = other.add_sequence();
      EXPECT_TRUE(same_bits(last_logits(engine, a, prompt), last_logits(other, b, prompt)))
          << recipe << " prompt " << seed;
      engine.remove_sequence(a);
      other.remove_sequence(b);
    }
  }
}

TEST_F(CudaEngineTest, SequencesTogetherAreAsAlone) {
  const TemporaryFolder folder;
  for (const char* recipe : {"w4a4", "w1a1"}) {
    longer_model(folder / recipe, recipe, 6);
    for (const CudaNumerics numerics : {CudaNumerics::kFast, CudaNumerics::kExact}) {
      CudaEngineOptions options = kExact;
      options.numerics = numerics;
      CudaEngine engine(PackedModel(folder / recipe), options);
      std::vector<std::vector<int32_t>> prompts;
      std::vector<SequenceId> ids;
      for (const int64_t length : {1, 60, 300, 64, 65, 300, 3, 257}) {
        prompts.push_back(some_tokens(length, static_cast<uint64_t>(length)));
        ids.push_back(engine.add_sequence());
      }
      const std::vector<std::span<const int32_t>> spans(prompts.begin(), prompts.end());
      std::vector<float> together(ids.size() * kVocabulary);
      engine.prefill_batch(ids, spans, together);
      std::vector<int32_t> next;
      for (size_t i = 0; i < ids.size(); ++i) next.push_back(static_cast<int32_t>(40 + i));
      std::vector<float> decoded(ids.size() * kVocabulary);
      engine.decode(ids, next, decoded);
      for (size_t i = 0; i < ids.size(); ++i) {
        const SequenceId alone = engine.add_sequence();
        const auto at = static_cast<std::ptrdiff_t>(i * kVocabulary);
        const auto row = [&](const std::vector<float>& all) {
          return std::vector<float>(all.begin() + at, all.begin() + at + kVocabulary);
        };
        EXPECT_TRUE(same_bits(last_logits(engine, alone, prompts[i]), row(together)))
            << recipe << " prompt " << prompts[i].size();
        std::vector<float> one(kVocabulary);
        engine.decode({&alone, 1}, {&next[i], 1}, one);
        EXPECT_TRUE(same_bits(one, row(decoded))) << recipe << " prompt " << prompts[i].size();
        engine.remove_sequence(alone);
      }
    }
  }
}

// A model whose quantizers of many rows go by spans.
PackedModel wide_model(const std::filesystem::path& folder, std::string_view recipe,
                       int64_t kv_heads) {
  LlamaConfig config = testing::small_llama(256);
  config.intermediate_size = 384;
  config.num_heads = 12;
  config.num_kv_heads = kv_heads;
  config.max_position_embeddings = 320;
  write_random_packed_model(folder, config, recipe_from_name(recipe), {});
  return PackedModel(folder);
}

// Prompts of one length are one call of LibTorch's attention, which for 100 keys has no order to
// choose; for 300 it may. Of those that are near, those that are the same are counted.
TEST_F(CudaEngineTest, PromptsOfOneLengthTogetherAreAsAlone) {
  const TemporaryFolder folder;
  int64_t same = 0, all = 0;
  for (const char* recipe : {"w4a4", "w1a1"}) {
    for (const int64_t kv_heads : {2, 6}) {
      const std::filesystem::path path = folder / (recipe + std::to_string(kv_heads));
      wide_model(path, recipe, kv_heads);
      CudaEngine engine(PackedModel(path), {});
      for (const int64_t length : {100, 300}) {
        const auto prompts = random_prompts(32, length, kVocabulary);
        const auto spans = views_of(prompts);
        for (const size_t count : {2, 8, 32}) {
          std::vector<SequenceId> ids;
          for (size_t i = 0; i < count; ++i) ids.push_back(engine.add_sequence());
          std::vector<float> together(count * kVocabulary);
          engine.prefill_batch(ids, std::span(spans).first(count), together);
          for (const SequenceId id : ids) engine.remove_sequence(id);
          for (const size_t i : {size_t{0}, size_t{1}, count - 1}) {
            const SequenceId alone = engine.add_sequence();
            const auto one = last_logits(engine, alone, prompts[i]);
            engine.remove_sequence(alone);
            const auto row = std::span(together).subspan(i * kVocabulary, kVocabulary);
            const bool equal = same_bits(one, std::vector<float>(row.begin(), row.end()));
            const std::string what = fmt::format("{}, {} kv heads, {} prompts of {}, number {}",
                                                 recipe, kv_heads, count, length, i);
            if (length == 100) {
              EXPECT_TRUE(equal) << what;
            } else {
              EXPECT_LT(distance(one, row), 0.4) << what;
              ++all;
              same += equal ? 1 : 0;
            }
          }
        }
      }
    }
  }
  RecordProperty("prompts_of_300", fmt::format("{} of {} have the bits of one alone", same, all));
}

// With int8 weights at hand many sequences are multiplied by them, one by the packed ones.
TEST_F(CudaEngineTest, MoreSequencesThanAStepTakes) {
  const TemporaryFolder folder;
  for (const char* recipe : {"w4a4", "w1a1"}) {
    testing::write_small_packed_model(folder / recipe, recipe);
    for (const bool unpacked : {false, true}) {
      CudaEngine engine(PackedModel(folder / recipe), {.unpacked_weights = unpacked});
      constexpr size_t kCount = 70;
      std::vector<SequenceId> ids;
      const auto tokens = some_tokens(kCount);
      for (size_t i = 0; i < kCount; ++i) ids.push_back(engine.add_sequence());
      std::vector<float> all(kCount * kVocabulary), one(kVocabulary);
      engine.decode(ids, tokens, all);
      const SequenceId alone = engine.add_sequence();
      for (const size_t i : {size_t{0}, size_t{63}, size_t{64}, size_t{69}}) {
        engine.truncate(alone, 0);
        engine.decode({&alone, 1}, {&tokens[i], 1}, one);
        EXPECT_EQ(
            std::memcmp(one.data(), all.data() + i * kVocabulary, sizeof(float) * kVocabulary), 0)
            << recipe << ' ' << i;
      }
    }
  }
}

// More shapes of steps than graphs are kept, twice: what is recorded again gives the same.
TEST_F(CudaEngineTest, GraphsThatWereDroppedAreRecordedAgain) {
  const TemporaryFolder folder;
  longer_model(folder / "m", "w4a4");
  CudaEngine engine(PackedModel(folder / "m"), {});
  CudaEngine plain(PackedModel(folder / "m"), {.graphs = false});
  constexpr size_t kCount = 34;
  const auto tokens = some_tokens(kCount);
  const auto prompts = random_prompts(kCount, 300, kVocabulary);
  const auto decoded = [&](CudaEngine& e, std::span<const SequenceId> ids) {
    std::vector<float> all(ids.size() * kVocabulary);
    e.decode(ids, std::span(tokens).first(ids.size()), all);
    for (const SequenceId id : ids) e.truncate(id, e.length(id) - 1);
    return all;
  };
  const auto sequences = [&](CudaEngine& e, int64_t length) {
    std::vector<SequenceId> ids;
    for (size_t i = 0; i < kCount; ++i) {
      ids.push_back(e.add_sequence());
      e.prefill(ids.back(), std::span(prompts[i]).first(static_cast<size_t>(length)), {});
    }
    return ids;
  };
  const auto many = sequences(engine, 300), few = sequences(engine, 20);
  const auto many_plain = sequences(plain, 300), few_plain = sequences(plain, 20);
  for (int round = 0; round < 2; ++round) {
    for (size_t n = 1; n <= kCount; ++n) {
      EXPECT_TRUE(same_bits(decoded(engine, std::span(many).first(n)),
                            decoded(plain, std::span(many_plain).first(n))))
          << n << " long, round " << round;
      EXPECT_TRUE(same_bits(decoded(engine, std::span(few).first(n)),
                            decoded(plain, std::span(few_plain).first(n))))
          << n << " short, round " << round;
    }
  }
}

TEST_F(CudaEngineTest, PromptsOfManyShapesAreReadByGraphsWithoutMoreAndMoreMemory) {
  const TemporaryFolder folder;
  longer_model(folder / "m", "w4a4");
  CudaEngine engine(PackedModel(folder / "m"), {});
  CudaEngine plain(PackedModel(folder / "m"), {.graphs = false});
  std::vector<int64_t> bytes;
  for (int round = 0; round < 3; ++round) {
    for (const int64_t length : {600, 70, 100, 130, 200, 300}) {
      for (uint64_t seed = 0; seed < 4; ++seed) {  // the third is recorded, the fourth replayed
        const auto prompt = some_tokens(length, seed);
        const SequenceId a = engine.add_sequence(), b = plain.add_sequence();
        EXPECT_TRUE(same_bits(last_logits(engine, a, prompt), last_logits(plain, b, prompt)))
            << length << " tokens, seed " << seed << ", round " << round;
        engine.remove_sequence(a);
        plain.remove_sequence(b);
      }
    }
    bytes.push_back(engine.scratch_bytes());
  }
  EXPECT_GT(bytes[0], plain.scratch_bytes()) << "memory of graphs is not counted";
  EXPECT_LE(bytes[2], bytes[1]);
}

TEST_F(CudaEngineTest, GreedyTokensOnTheDeviceAreThoseOfTheLogits) {
  const TemporaryFolder folder;
  longer_model(folder / "m", "w4a4");
  CudaEngine engine(PackedModel(folder / "m"), {});
  constexpr int64_t kSteps = 70;
  const std::vector<SequenceId> ids = {engine.add_sequence(), engine.add_sequence(),
                                       engine.add_sequence()};
  const std::vector<int32_t> first = {5, 6, 7};
  engine.prefill(ids[1], some_tokens(250), {});  // passes a piece of attention on the way
  std::vector<int32_t> out(kSteps * 3);
  engine.decode_greedy(ids, first, kSteps, out);
  for (size_t i = 0; i < 3; ++i) {
    const SequenceId s = engine.add_sequence();
    if (i == 1) engine.prefill(s, some_tokens(250), {});
    int32_t token = first[i];
    std::vector<float> row(kVocabulary);
    for (int64_t step = 0; step < kSteps; ++step) {
      engine.decode({&s, 1}, {&token, 1}, row);
      token = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
      ASSERT_EQ(out[static_cast<size_t>(3 * step) + i], token)
          << "sequence " << i << " step " << step;
    }
    EXPECT_EQ(engine.length(ids[i]), engine.length(s));
  }
}

TEST_F(CudaEngineTest, TokensDrawnOnTheDeviceAreTheSamplersOfTheLogits) {
  const TemporaryFolder folder;
  longer_model(folder / "m", "w4a4");
  CudaEngine engine(PackedModel(folder / "m"), {});
  constexpr int64_t kSteps = 40;
  const std::vector<SamplerSettings> settings = {
      {.temperature = 0.8, .top_k = 50, .seed = 7},
      {.top_p = 0.9, .repetition_penalty = 1.3, .seed = 8},
      {.temperature = 1.5, .min_p = 0.01, .seed = 9, .logit_bias = {{3, 1.5f}, {9, -INFINITY}}},
      {.temperature = 0, .repetition_penalty = 1.5},
  };
  const std::vector<int32_t> first = {5, 6, 7, 8}, prompt = some_tokens(20);
  const std::vector<std::span<const int32_t>> previous(4, prompt);
  std::vector<SequenceId> ids;
  for (size_t i = 0; i < 4; ++i) {
    ids.push_back(engine.add_sequence());
    engine.prefill(ids.back(), prompt, {});
  }
  std::vector<int32_t> out(kSteps * 4);
  engine.decode_sampled(ids, first, settings, kSteps / 2, std::span(out).first(kSteps * 2),
                        previous);
  // The second half with the first's tokens named, as a new call knows nothing of them.
  std::vector<std::vector<int32_t>> texts(4, prompt);
  for (size_t i = 0; i < static_cast<size_t>(kSteps) * 2; ++i) texts[i % 4].push_back(out[i]);
  const std::vector<std::span<const int32_t>> later(texts.begin(), texts.end());
  engine.decode_sampled(ids, std::span(out).subspan(kSteps * 2 - 4, 4), settings, kSteps / 2,
                        std::span(out).last(kSteps * 2), later);
  for (size_t i = 0; i < 4; ++i) {
    const SequenceId s = engine.add_sequence();
    engine.prefill(s, prompt, {});
    Sampler sampler(settings[i]);
    std::vector<int32_t> text = prompt;
    int32_t token = first[i];
    std::vector<float> row(kVocabulary);
    for (int64_t step = 0; step < kSteps; ++step) {
      engine.decode({&s, 1}, {&token, 1}, row);
      token = sampler.sample(row, static_cast<uint64_t>(engine.length(s)), text);
      text.push_back(token);
      ASSERT_EQ(out[static_cast<size_t>(4 * step) + i], token)
          << "sequence " << i << " step " << step;
    }
    EXPECT_EQ(engine.length(ids[i]), engine.length(s));
  }
}

TEST_F(CudaEngineTest, OneSettingDrawsForMoreSequencesThanAStepTakes) {
  const TemporaryFolder folder;
  testing::write_small_packed_model(folder / "m", "w4a4");
  CudaEngine engine(PackedModel(folder / "m"), {});
  constexpr size_t kCount = 66;
  std::vector<SequenceId> ids;
  const auto tokens = some_tokens(kCount);
  for (size_t i = 0; i < kCount; ++i) ids.push_back(engine.add_sequence());
  const SamplerSettings settings{.repetition_penalty = 2, .seed = 3};
  const std::vector<std::span<const int32_t>> previous(kCount, tokens);
  std::vector<int32_t> all(3 * kCount), one(3);
  engine.decode_sampled(ids, tokens, {&settings, 1}, 3, all, previous);
  for (const size_t i : {size_t{0}, size_t{63}, size_t{64}, size_t{65}}) {
    const SequenceId alone = engine.add_sequence();
    engine.decode_sampled({&alone, 1}, {&tokens[i], 1}, {&settings, 1}, 3, one, {&previous[i], 1});
    for (size_t step = 0; step < 3; ++step) EXPECT_EQ(all[step * kCount + i], one[step]) << i;
    engine.remove_sequence(alone);
  }
}

TEST_F(CudaEngineTest, CutTextsGoOnAsIfTheRestHadNotBeen) {
  const TemporaryFolder folder;
  longer_model(folder / "m", "w4a4");
  CudaEngine engine(PackedModel(folder / "m"), {});
  const auto tokens = some_tokens(200);
  const SequenceId a = engine.add_sequence(), b = engine.add_sequence();
  engine.prefill(a, tokens, {});
  engine.truncate(a, 70);
  engine.prefill(b, std::span(tokens).first(70), {});
  EXPECT_LT(relative_difference(last_logits(engine, a, some_tokens(9, 7)),
                                last_logits(engine, b, some_tokens(9, 7))),
            0.25);
  EXPECT_EQ(engine.length(a), 79);
  const int64_t bytes = engine.cache_bytes();
  for (int i = 0; i < 40; ++i) {
    const SequenceId s = engine.add_sequence();
    engine.prefill(s, tokens, {});
    engine.remove_sequence(s);
  }
  EXPECT_EQ(engine.cache_bytes(), bytes) << "pages are not given to others";
}

TEST_F(CudaEngineTest, TimesAreTakenAndChangeNothing) {
  const TemporaryFolder folder;
  longer_model(folder / "m", "w4a4");
  CudaEngine engine(PackedModel(folder / "m"), {});
  const SequenceId s = engine.add_sequence();
  engine.prefill(s, some_tokens(100), {});
  const auto seconds = engine.time_decode({&s, 1}, 3);
  EXPECT_GT(seconds.blocks, 0);
  EXPECT_GT(seconds.head, 0);
  EXPECT_EQ(engine.length(s), 100);
  EXPECT_GT(engine.time_prefill(3, 100, 2), 0);
  const SequenceId t = engine.add_sequence();
  engine.prefill(t, some_tokens(100), {});
  EXPECT_TRUE(same_bits(last_logits(engine, s, some_tokens(3, 9)),
                        last_logits(engine, t, some_tokens(3, 9))));
}

TEST_F(CudaEngineTest, PlansAreThereBeforeTheFirstSequence) {
  const TemporaryFolder folder;
  longer_model(folder / "m", "w4a4");
  for (const CudaNumerics numerics : {CudaNumerics::kFast, CudaNumerics::kExact}) {
    const CudaEngine engine(PackedModel(folder / "m"), {.numerics = numerics});
    const std::string plans = engine.plans();
    for (const char* part : {"qkv_proj", "lm_head", "attention", "cache", "device"}) {
      EXPECT_NE(plans.find(part), std::string::npos) << part << " in " << plans;
    }
  }
  if (!ops::gpu_has_fast_products()) return;
  const CudaEngine packed(PackedModel(folder / "m"), {}),
      int8(PackedModel(folder / "m"), {.unpacked_weights = true});
  EXPECT_NE(packed.plans().find("from 65 rows: int8"), std::string::npos) << packed.plans();
  EXPECT_NE(int8.plans().find("from 33 rows: int8"), std::string::npos) << int8.plans();
  longer_model(folder / "bits", "w1a1");
  const CudaEngine bits(PackedModel(folder / "bits"), {.unpacked_weights = true});
  EXPECT_NE(bits.plans().find("from 65 rows: int8"), std::string::npos) << bits.plans();
}

TEST_F(CudaEngineTest, SaysWhatIsWrong) {
  const TemporaryFolder folder;
  testing::write_small_packed_model(folder / "m", "w4a4");
  const auto kind = [](const auto& f) {
    try {
      f();
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kIo;
  };
  CudaEngine engine(PackedModel(folder / "m"), {});
  const SequenceId s = engine.add_sequence();
  std::vector<float> row(kVocabulary);
  const std::vector<int32_t> wrong = {3, kVocabulary}, many(65, 1), one = {1}, none;
  EXPECT_EQ(kind([&] { engine.prefill(s, wrong, row); }), ErrorKind::kData);
  EXPECT_EQ(kind([&] { engine.prefill(s, many, row); }), ErrorKind::kUsage);
  EXPECT_EQ(kind([&] { engine.prefill(s, none, row); }), ErrorKind::kUsage);
  EXPECT_EQ(kind([&] { engine.prefill(s + 9, one, row); }), ErrorKind::kUsage);
  EXPECT_EQ(kind([&] { engine.truncate(s, 1); }), ErrorKind::kUsage);
  EXPECT_EQ(kind([&] { engine.prefill(s, one, std::span(row).first(3)); }), ErrorKind::kUsage);
  const std::vector<SequenceId> twins = {s, s};
  std::vector<float> rows(2 * kVocabulary);
  EXPECT_EQ(kind([&] {
              engine.decode(twins, std::vector<int32_t>{1, 2}, rows);
            }),
            ErrorKind::kUsage);
  std::vector<int32_t> two(2);
  const auto draws = [&](const std::vector<SamplerSettings>& settings) {
    return kind([&] { engine.decode_sampled({&s, 1}, one, settings, 2, two); });
  };
  EXPECT_EQ(draws({}), ErrorKind::kUsage);
  EXPECT_EQ(draws({{}, {}}), ErrorKind::kUsage);
  EXPECT_EQ(draws({{.top_p = 2}}), ErrorKind::kUsage);
  EXPECT_EQ(draws({{.logit_bias = {{kVocabulary, 1}}}}), ErrorKind::kUsage);
  std::vector<std::pair<int32_t, float>> none_allowed;
  for (int32_t i = 0; i < kVocabulary; ++i) none_allowed.emplace_back(i, -INFINITY);
  EXPECT_EQ(draws({{.logit_bias = none_allowed}}), ErrorKind::kNumeric);
  EXPECT_EQ(engine.length(s), 0);
  engine.prefill(s, std::span(many).first(64), row);
  EXPECT_EQ(kind([&] { engine.decode({&s, 1}, one, row); }), ErrorKind::kUsage);
  EXPECT_EQ(engine.length(s), 64);
  EXPECT_EQ(kind([&] {
              CudaEngine bad(PackedModel(folder / "m"),
                             {.numerics = CudaNumerics::kExact, .kv = CudaKvFormat::kBf16});
            }),
            ErrorKind::kUsage);
  EXPECT_EQ(kind([&] { CudaEngine bad(PackedModel(folder / "m"), {.context = 65}); }),
            ErrorKind::kUsage);
}

TEST(CudaEngineOptions, NamesOfCacheFormats) {
  EXPECT_EQ(cuda_kv_format_from_name("bf16"), CudaKvFormat::kBf16);
  EXPECT_EQ(cuda_kv_format_from_name("fp16"), CudaKvFormat::kFp16);
  EXPECT_EQ(cuda_kv_format_from_name("int8"), CudaKvFormat::kInt8);
  EXPECT_THROW(cuda_kv_format_from_name("int4"), Error);
}

TEST(CudaEngineWithoutAGpu, SaysWhyThereIsNone) {
  const std::string reason = ops::gpu_unusable_reason();
  if (reason.empty()) GTEST_SKIP() << "there is a GPU";
  const TemporaryFolder folder;
  testing::write_small_packed_model(folder / "m", "w4a4");
  try {
    CudaEngine engine(PackedModel(folder / "m"), {});
    FAIL() << "an engine without a GPU";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
    EXPECT_NE(std::string(error.what()).find(reason), std::string::npos);
  }
}

}  // namespace
}  // namespace quest
