#include "quest/nn/authors_layout.h"

#include <cmath>

#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "quest/ops/attention.h"
#include "quest/ops/testing_tensors.h"

namespace quest::nn {
namespace {

using testing::normal;

LlamaConfig small_config() {
  LlamaConfig config;
  config.vocab_size = 40;
  config.hidden_size = 24;
  config.intermediate_size = 32;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 6;
  config.max_position_embeddings = 16;
  return config;
}

const AuthorsTensor& named(const std::vector<AuthorsTensor>& all, const std::string& name) {
  for (const AuthorsTensor& t : all) {
    if (t.name == name) return t;
  }
  QUEST_THROW(ErrorKind::kUsage, "no tensor {}", name);
}

TEST(AuthorsLayout, NamesAndRowsCoverEveryParameterOnce) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = small_config();
    config.tie_word_embeddings = tied;
    const LlamaModel model(config, recipe_from_name("bf16"), ComputeType::kFloat32);
    const auto all = authors_tensors(model);
    int64_t values = 0;
    for (const AuthorsTensor& t : all) {
      const at::Tensor rows = t.rows_of(t.parameter);
      EXPECT_EQ(rows.size(0), t.rows) << t.name;
      EXPECT_FALSE(rows.requires_grad()) << t.name;
      EXPECT_EQ(t.rotary_heads, t.name.ends_with("attn.c_attn.weight") ? 4 + 2 : 0) << t.name;
      values += rows.numel();
    }
    EXPECT_EQ(values, config.parameters());
    EXPECT_EQ(all.size(), static_cast<size_t>(tied ? 16 : 17));
    for (const char* name :
         {"transformer.wte.weight", "transformer.ln_f.weight", "transformer.h.1.ln_1.weight",
          "transformer.h.1.ln_2.weight", "transformer.h.0.attn.c_proj.weight",
          "transformer.h.1.mlp.c_proj.weight"}) {
      EXPECT_EQ(named(all, name).rows, named(all, name).parameter.size(0)) << name;
    }
    // w1 is the gate: the first rows of the fused matrix; w2 is up: the rows behind.
    EXPECT_EQ(named(all, "transformer.h.0.mlp.w1.weight").first_row, 0);
    EXPECT_EQ(named(all, "transformer.h.0.mlp.w2.weight").first_row, 32);
    EXPECT_EQ(named(all, "transformer.h.0.mlp.w2.weight").rows, 32);
  }
}

TEST(AuthorsLayout, RowsOfReachTheParameter) {
  const LlamaModel model(small_config(), recipe_from_name("bf16"), ComputeType::kFloat32);
  const auto all = authors_tensors(model);
  const AuthorsTensor& up = named(all, "transformer.h.0.mlp.w2.weight");
  up.rows_of(up.parameter).fill_(3);
  EXPECT_EQ(up.parameter.sum().item<double>(), 3.0 * 32 * 24);
  EXPECT_EQ(up.parameter.detach().narrow(0, 0, 32).abs().max().item<double>(), 0);
}

TEST(AuthorsLayout, InterleavedPairsBecomeHalves) {
  const LlamaModel model(small_config(), recipe_from_name("bf16"), ComputeType::kFloat32);
  const auto all = authors_tensors(model);
  const AuthorsTensor& qkv = named(all, "transformer.h.0.attn.c_attn.weight");
  at::Tensor theirs = at::zeros({48, 24}, at::kFloat);
  for (int64_t row = 0; row < 48; ++row) theirs[row].fill_(static_cast<double>(row));
  const at::Tensor ours = from_authors_layout(qkv, theirs);
  const auto first_column = [&](int64_t row) { return ours[row][0].item<int64_t>(); };
  // Head 1 (rows 6..11): the pairs (6,7), (8,9), (10,11) come apart into 6, 8, 10 and 7, 9, 11.
  const int64_t expected[] = {6, 8, 10, 7, 9, 11};
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(first_column(6 + i), expected[i]);
  // v is not rotated: its rows stay.
  for (int64_t row = 36; row < 48; ++row) EXPECT_EQ(first_column(row), row);
}

TEST(AuthorsLayout, RoundTrip) {
  const LlamaModel model(small_config(), recipe_from_name("bf16"), ComputeType::kFloat32);
  for (const AuthorsTensor& t : authors_tensors(model)) {
    const at::Tensor theirs = normal(t.rows_of(t.parameter).sizes().vec(), 1, at::kFloat);
    const at::Tensor before = theirs.clone();
    const at::Tensor ours = from_authors_layout(t, theirs);
    EXPECT_TRUE(at::equal(to_authors_layout(t, ours), theirs)) << t.name;
    EXPECT_EQ(at::equal(ours, theirs), t.rotary_heads == 0) << t.name;
    // New memory, and what went in is as it was.
    EXPECT_NE(ours.data_ptr(), theirs.data_ptr()) << t.name;
    EXPECT_TRUE(at::equal(theirs, before)) << t.name;
  }
}

// Scores of a row of keys against a row of queries, rotary pairs interleaved as in the authors'
// model: element 2i with element 2i + 1.
at::Tensor interleaved_attention(const at::Tensor& x, const at::Tensor& weight,
                                 const LlamaConfig& config, const Rope& rope) {
  const int64_t t_count = x.size(0), d = config.head_dim, h_count = config.num_heads;
  const int64_t g_count = config.num_kv_heads;
  at::Tensor qkv = at::mm(x, weight.t());
  auto values = qkv.accessor<double, 2>();
  const auto cos = rope.cos.accessor<float, 2>(), sin = rope.sin.accessor<float, 2>();
  for (int64_t t = 0; t < t_count; ++t) {
    for (int64_t h = 0; h < h_count + g_count; ++h) {
      for (int64_t i = 0; i < d / 2; ++i) {
        double &a = values[t][h * d + 2 * i], &b = values[t][h * d + 2 * i + 1];
        const double first = a * cos[t][i] - b * sin[t][i];
        b = a * sin[t][i] + b * cos[t][i];
        a = first;
      }
    }
  }
  at::Tensor out = at::zeros({t_count, h_count * d}, at::kDouble);
  for (int64_t h = 0; h < h_count; ++h) {
    const int64_t kv = h_count + h / (h_count / g_count);
    for (int64_t t = 0; t < t_count; ++t) {
      const at::Tensor k = qkv.narrow(1, kv * d, d).narrow(0, 0, t + 1);
      const at::Tensor v = qkv.narrow(1, (kv + g_count) * d, d).narrow(0, 0, t + 1);
      const at::Tensor scores =
          at::mm(k, qkv[t].narrow(0, h * d, d).unsqueeze(1)) / std::sqrt(static_cast<double>(d));
      const at::Tensor weights = scores.exp() / scores.exp().sum();
      out[t].narrow(0, h * d, d).copy_(at::mm(weights.t(), v)[0]);
    }
  }
  return out;
}

TEST(AuthorsLayout, PermutedRowsGiveTheSameAttention) {
  const LlamaConfig config = small_config();
  const LlamaModel model(config, recipe_from_name("bf16"), ComputeType::kFloat64);
  const auto all = authors_tensors(model);
  const AuthorsTensor& qkv = named(all, "transformer.h.0.attn.c_attn.weight");
  const at::Tensor theirs = normal({48, 24}, 1, at::kDouble, 0.5), x = normal({16, 24}, 2);
  Rope rope{at::zeros({16, 3}, at::kFloat), at::zeros({16, 3}, at::kFloat)};
  for (int64_t t = 0; t < 16; ++t) {
    for (int64_t i = 0; i < 3; ++i) {
      const double angle = static_cast<double>(t) * std::pow(10.0, -static_cast<double>(i));
      rope.cos[t][i] = std::cos(angle);
      rope.sin[t][i] = std::sin(angle);
    }
  }
  const auto half_split = [&](const at::Tensor& weight) {
    return ops::causal_self_attention(at::mm(x, weight.t()).unsqueeze(0), rope.cos, rope.sin,
                                      {4, 2, 6})[0];
  };
  const at::Tensor expected = interleaved_attention(x, theirs, config, rope);
  testing::expect_within(half_split(from_authors_layout(qkv, theirs)), expected, 1e-12, "permuted");
  // Unpermuted rows, or rows permuted the other way, are another model.
  EXPECT_GT(testing::relative_error(half_split(theirs), expected), 0.01);
  EXPECT_GT(testing::relative_error(half_split(to_authors_layout(qkv, theirs)), expected), 0.01);
}

}  // namespace
}  // namespace quest::nn
