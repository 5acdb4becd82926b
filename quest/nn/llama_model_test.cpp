#include "quest/nn/llama_model.h"

#include <cmath>
#include <map>
#include <memory>
#include <set>

#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include "quest/model/rope_table.h"
#include "quest/ops/attention.h"
#include "quest/ops/testing_tensors.h"

namespace quest::nn {
namespace {

using testing::as_double;
using testing::relative_error;

// Grouped queries, H D that is not C, all sizes multiples of 16 for the transform.
LlamaConfig small_config() {
  LlamaConfig config;
  config.vocab_size = 96;
  config.hidden_size = 64;
  config.intermediate_size = 112;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.max_position_embeddings = 80;
  return config;
}

// Weights large enough that attention and MLP shape the logits, as after training.
std::unique_ptr<LlamaModel> make_model(const LlamaConfig& config, const char* recipe,
                                       ComputeType compute) {
  auto model = std::make_unique<LlamaModel>(config, recipe_from_name(recipe), compute);
  model->init_weights(1);
  const at::NoGradGuard no_grad;
  for (const NamedParameter& p : model->parameters()) {
    if (p.tensor.dim() == 2) at::Tensor(p.tensor).mul_(p.weight_decay ? 8 : 10);
  }
  return model;
}

at::Tensor random_tokens(int64_t batch, int64_t length, int64_t vocabulary, uint64_t seed = 3) {
  const Philox random(seed);
  at::Tensor tokens = at::zeros({batch, length}, at::kLong);
  for (int64_t i = 0; i < tokens.numel(); ++i) {
    tokens.data_ptr<int64_t>()[i] = static_cast<int64_t>(
        random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(vocabulary)));
  }
  return tokens;
}

at::Tensor parameter(const LlamaModel& model, const std::string& name) {
  for (const NamedParameter& p : model.parameters()) {
    if (p.name == name) return p.tensor;
  }
  QUEST_THROW(ErrorKind::kUsage, "no parameter {}", name);
}

TEST(LlamaModel, ParametersAndTheirWeightDecay) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = small_config();
    config.tie_word_embeddings = tied;
    const LlamaModel model(config, recipe_from_name("w4a4"), ComputeType::kBFloat16);
    int64_t values = 0;
    std::set<std::string> names;
    for (const NamedParameter& p : model.parameters()) {
      values += p.tensor.numel();
      names.insert(p.name);
      EXPECT_TRUE(p.tensor.requires_grad() && p.tensor.is_leaf()) << p.name;
      EXPECT_EQ(p.tensor.scalar_type(), at::kFloat) << p.name;
      const bool block_matrix = p.name.find("_proj.weight") != std::string::npos;
      EXPECT_EQ(p.weight_decay, block_matrix) << p.name;
    }
    EXPECT_EQ(values, config.parameters());
    EXPECT_EQ(names.size(), model.parameters().size());
    EXPECT_EQ(names.contains("lm_head.weight"), !tied);
    EXPECT_EQ(names.size(), static_cast<size_t>(tied ? 14 : 15));
  }
}

TEST(LlamaModel, HuggingFaceTensorsAreViewsOfParameters) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = small_config();
    config.tie_word_embeddings = tied;
    LlamaModel model(config, recipe_from_name("bf16"), ComputeType::kFloat32);
    model.init_weights(1);
    std::map<std::string, at::Tensor> views;
    for (const HfTensor& t : model.hf_tensors()) {
      EXPECT_TRUE(t.view.is_contiguous()) << t.name;
      EXPECT_TRUE(views.emplace(t.name, t.view).second) << t.name;
    }
    std::map<std::string, std::vector<int64_t>> shapes = {{"model.embed_tokens.weight", {96, 64}},
                                                          {"model.norm.weight", {64}}};
    if (!tied) shapes["lm_head.weight"] = {96, 64};
    for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
      const std::string l = layer;
      shapes[l + "input_layernorm.weight"] = {64};
      shapes[l + "post_attention_layernorm.weight"] = {64};
      shapes[l + "self_attn.q_proj.weight"] = {96, 64};
      shapes[l + "self_attn.k_proj.weight"] = {32, 64};
      shapes[l + "self_attn.v_proj.weight"] = {32, 64};
      shapes[l + "self_attn.o_proj.weight"] = {64, 96};
      shapes[l + "mlp.gate_proj.weight"] = {112, 64};
      shapes[l + "mlp.up_proj.weight"] = {112, 64};
      shapes[l + "mlp.down_proj.weight"] = {64, 112};
    }
    EXPECT_EQ(views.size(), shapes.size());
    for (const auto& [name, shape] : shapes) {
      ASSERT_TRUE(views.contains(name)) << name;
      EXPECT_EQ(views[name].sizes(), shape) << name;
    }
    // The memory is the parameter's, q before k before v and gate before up.
    const at::Tensor qkv = parameter(model, "model.layers.1.self_attn.qkv_proj.weight");
    const auto view = [&](const char* name) {
      return views["model.layers.1." + std::string(name)];
    };
    EXPECT_TRUE(at::equal(at::cat({view("self_attn.q_proj.weight"), view("self_attn.k_proj.weight"),
                                   view("self_attn.v_proj.weight")}),
                          qkv.detach()));
    const at::Tensor up = parameter(model, "model.layers.1.mlp.gate_up_proj.weight");
    view("mlp.up_proj.weight").fill_(7);
    EXPECT_TRUE(up.detach().narrow(0, 112, 112).eq(7).all().item<bool>());
    EXPECT_FALSE(up.detach().narrow(0, 0, 112).eq(7).any().item<bool>());
  }
}

TEST(LlamaModel, InitialWeightsAreNormal) {
  LlamaConfig config = small_config();
  config.num_layers = 8;
  LlamaModel model(config, recipe_from_name("w4a4"), ComputeType::kFloat32);
  model.init_weights(5);
  for (const NamedParameter& p : model.parameters()) {
    const at::Tensor w = as_double(p.tensor);
    if (w.dim() == 1) {
      EXPECT_TRUE(w.eq(1).all().item<bool>()) << p.name;
      continue;
    }
    const bool output = p.name.ends_with("o_proj.weight") || p.name.ends_with("down_proj.weight");
    const double sigma = output ? 0.02 / 4 : 0.02;  // sqrt(2 * 8 blocks) = 4
    const auto n = static_cast<double>(w.numel());
    // 5 standard deviations of the mean, of the deviation and of the fourth moment (96 for n).
    EXPECT_NEAR(w.mean().item<double>() / sigma, 0, 5 / std::sqrt(n)) << p.name;
    EXPECT_NEAR(w.pow(2).mean().sqrt().item<double>() / sigma, 1, 5 / std::sqrt(2 * n)) << p.name;
    EXPECT_NEAR((w / sigma).pow(4).mean().item<double>(), 3, 5 * std::sqrt(96 / n)) << p.name;
  }
}

TEST(LlamaModel, InitialWeightsAreAFunctionOfTheSeed) {
  const auto weights = [](uint64_t seed, int threads, ComputeType compute) {
    const testing::ThreadCount count(threads);
    LlamaModel model(small_config(), recipe_from_name("bf16"), compute);
    model.init_weights(seed);
    std::vector<at::Tensor> all;
    for (const NamedParameter& p : model.parameters()) {
      if (p.tensor.dim() == 2) all.push_back(as_double(p.tensor));
    }
    return all;
  };
  const auto one = weights(5, 1, ComputeType::kFloat32),
             same = weights(5, 3, ComputeType::kBFloat16);
  const auto exact = weights(5, 1, ComputeType::kFloat64);
  const auto other = weights(6, 1, ComputeType::kFloat32);
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_TRUE(at::equal(one[i], same[i]));
    EXPECT_TRUE(at::equal(one[i], exact[i]));
    EXPECT_FALSE(at::equal(one[i], other[i]));
    for (size_t j = 0; j < i; ++j)
      EXPECT_NE(one[i][0][0].item<double>(), one[j][0][0].item<double>());
  }
}

TEST(LlamaModel, LossIsTheMeanOfTokenLossesAndOfLogits) {
  for (const bool tied : {false, true}) {
    for (const ComputeType compute :
         {ComputeType::kFloat32, ComputeType::kBFloat16, ComputeType::kFloat64}) {
      SCOPED_TRACE(compute_type_name(compute));
      LlamaConfig config = small_config();
      config.tie_word_embeddings = tied;
      const auto model = make_model(config, "w4a4", compute);
      const at::Tensor tokens = random_tokens(3, 17, 96);
      at::Tensor targets = random_tokens(3, 17, 96, 4);
      targets[1][5].fill_(-100);
      targets[2][16].fill_(-100);
      const at::Tensor losses = model->token_losses(tokens, targets);
      ASSERT_EQ(losses.sizes(), (std::vector<int64_t>{3, 17}));
      EXPECT_EQ(losses[1][5].item<double>(), 0);
      const double mean = as_double(losses).sum().item<double>() / (3 * 17 - 2);
      EXPECT_NEAR(model->loss(tokens, targets).item<double>(), mean, 1e-5);
      EXPECT_GT(mean, 1);
      const at::Tensor logits = as_double(model->logits(tokens));
      const double target = logits[2][3][targets[2][3].item<int64_t>()].item<double>();
      EXPECT_NEAR(losses[2][3].item<double>(),
                  std::log(logits[2][3].exp().sum().item<double>()) - target,
                  compute == ComputeType::kBFloat16 ? 0.05 : 1e-4);
    }
  }
}

TEST(LlamaModel, ComputeTypesAgree) {
  const at::Tensor tokens = random_tokens(2, 40, 96), targets = random_tokens(2, 40, 96, 4);
  const auto exact = make_model(small_config(), "bf16", ComputeType::kFloat64);
  const auto single = make_model(small_config(), "bf16", ComputeType::kFloat32);
  const auto half = make_model(small_config(), "bf16", ComputeType::kBFloat16);
  for (LlamaModel* model : {exact.get(), single.get(), half.get()}) {
    model->loss(tokens, targets).backward();
  }
  const double loss = exact->loss(tokens, targets).item<double>();
  EXPECT_NEAR(single->loss(tokens, targets).item<double>(), loss, 1e-5 * loss);
  EXPECT_NEAR(half->loss(tokens, targets).item<double>(), loss, 1e-2 * loss);
  EXPECT_LT(relative_error(single->logits(tokens), exact->logits(tokens)), 1e-5);
  EXPECT_LT(relative_error(half->logits(tokens), exact->logits(tokens)), 3e-2);
  const auto expected = exact->parameters(), float32 = single->parameters();
  const auto bfloat16 = half->parameters();
  for (size_t i = 0; i < expected.size(); ++i) {
    const at::Tensor grad = expected[i].tensor.grad();
    EXPECT_LT(relative_error(float32[i].tensor.grad(), grad), 2e-5) << expected[i].name;
    EXPECT_LT(relative_error(bfloat16[i].tensor.grad(), grad), 6e-2) << expected[i].name;
  }
}

// The unquantized model written down once more, in double, from Hugging Face's tensors.
at::Tensor plain_llama(const LlamaModel& model, const at::Tensor& tokens) {
  const LlamaConfig& c = model.config();
  std::map<std::string, at::Tensor> w;
  for (const HfTensor& t : model.hf_tensors()) w[t.name] = t.view;
  const RopeTable table = make_rope_table(c, tokens.size(1));
  const auto tensor = [&](const std::vector<float>& values) {
    return at::tensor(values).view({tokens.size(1), c.head_dim / 2});
  };
  const at::Tensor cos = tensor(table.cos), sin = tensor(table.sin);
  const auto norm = [&](const at::Tensor& x, const at::Tensor& weight) {
    return x / (x.pow(2).mean(-1, true) + c.rms_norm_eps).sqrt() * weight;
  };
  at::Tensor x = at::embedding(w["model.embed_tokens.weight"], tokens);
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const auto of_layer = [&](const char* name) {
      return w[fmt::format("model.layers.{}.{}.weight", i, name)];
    };
    at::Tensor h = norm(x, of_layer("input_layernorm"));
    const at::Tensor qkv = at::cat(
        {at::linear(h, of_layer("self_attn.q_proj")), at::linear(h, of_layer("self_attn.k_proj")),
         at::linear(h, of_layer("self_attn.v_proj"))},
        -1);
    x = x + at::linear(ops::causal_self_attention(qkv, cos, sin,
                                                  {c.num_heads, c.num_kv_heads, c.head_dim}),
                       of_layer("self_attn.o_proj"));
    h = norm(x, of_layer("post_attention_layernorm"));
    x = x + at::linear(at::silu(at::linear(h, of_layer("mlp.gate_proj"))) *
                           at::linear(h, of_layer("mlp.up_proj")),
                       of_layer("mlp.down_proj"));
  }
  const bool tied = c.tie_word_embeddings;
  return at::linear(norm(x, w["model.norm.weight"]),
                    w[tied ? "model.embed_tokens.weight" : "lm_head.weight"]);
}

TEST(LlamaModel, IsThePlainModelWrittenDown) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = small_config();
    config.tie_word_embeddings = tied;
    const auto model = make_model(config, "bf16", ComputeType::kFloat64);
    const at::NoGradGuard no_grad;
    uint64_t seed = 20;
    for (const NamedParameter& p : model->parameters()) {
      // Norms of one would hide which norm is used where.
      if (p.tensor.dim() == 1) at::Tensor(p.tensor).copy_(testing::normal({64}, ++seed));
    }
    const at::Tensor tokens = random_tokens(2, 33, 96);
    const at::Tensor expected = plain_llama(*model, tokens);
    testing::expect_within(model->logits(tokens), expected, 1e-10, "logits");
    EXPECT_GT(expected.abs().max().item<double>(), 1);
  }
}

// Of the whole unquantized model, at a few weights of each parameter.
TEST(LlamaModel, FiniteDifferences) {
  const testing::ThreadCount one(1);  // many tiny passes: threads would only wait for each other
  for (const bool tied : {false, true}) {
    LlamaConfig config = small_config();
    config.tie_word_embeddings = tied;
    const auto model = make_model(config, "bf16", ComputeType::kFloat64);
    const at::Tensor tokens = random_tokens(2, 9, 96), targets = random_tokens(2, 9, 96, 4);
    model->loss(tokens, targets).backward();
    for (const NamedParameter& p : model->parameters()) {
      const at::Tensor flat = p.tensor.detach().view(-1), grad = p.tensor.grad().reshape(-1);
      // Embedding rows of a token that occurs, elsewhere any place.
      const int64_t row = p.tensor.dim() == 2 && p.tensor.size(0) == 96
                              ? tokens[0][3].item<int64_t>() * 64
                              : flat.numel() / 2;
      for (const int64_t at : {row, row + 5}) {
        const at::Tensor value = flat[at];
        const double kept = value.item<double>(), h = 1e-5;
        value.fill_(kept + h);
        const double up = model->loss(tokens, targets).item<double>();
        value.fill_(kept - h);
        const double down = model->loss(tokens, targets).item<double>();
        value.fill_(kept);
        EXPECT_NEAR(grad[at].item<double>(), (up - down) / (2 * h), 1e-8) << p.name << " " << at;
      }
    }
  }
}

TEST(LlamaModel, HalvesAddUpToTheWholeBatch) {
  for (const char* recipe : {"bf16", "w4a4"}) {
    const auto whole = make_model(small_config(), recipe, ComputeType::kFloat32);
    const auto halves = make_model(small_config(), recipe, ComputeType::kFloat32);
    const at::Tensor tokens = random_tokens(4, 20, 96), targets = random_tokens(4, 20, 96, 4);
    whole->loss(tokens, targets).backward();
    for (const int64_t begin : {0, 2}) {
      (halves->loss(tokens.narrow(0, begin, 2), targets.narrow(0, begin, 2)) * 0.5).backward();
    }
    const auto expected = whole->parameters(), actual = halves->parameters();
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_GT(expected[i].tensor.grad().norm().item<double>(), 1e-4) << expected[i].name;
      EXPECT_LT(relative_error(actual[i].tensor.grad(), expected[i].tensor.grad()), 1e-5)
          << recipe << " " << expected[i].name;
    }
    halves->zero_grad();
    for (const NamedParameter& p : halves->parameters()) EXPECT_FALSE(p.tensor.grad().defined());
  }
}

// A changed parameter is quantized again: no copy of the old one is used.
TEST(LlamaModel, FollowsItsParameters) {
  for (const ComputeType compute : {ComputeType::kFloat32, ComputeType::kBFloat16}) {
    const auto model = make_model(small_config(), "w4a4", compute);
    const at::Tensor tokens = random_tokens(1, 8, 96);
    for (const NamedParameter& p : model->parameters()) {
      const at::Tensor before = model->logits(tokens);
      {
        const at::NoGradGuard no_grad;
        at::Tensor(p.tensor).mul_(p.tensor.dim() == 1 ? 3 : -1);
      }
      EXPECT_GT(relative_error(model->logits(tokens), before), 0.01) << p.name;
    }
  }
}

// Logits after each prefix, from the cache, are those of the whole sequence.
void expect_decode_is_logits(const LlamaConfig& config, const char* recipe, ComputeType compute,
                             double tolerance) {
  SCOPED_TRACE(fmt::format("{} {}", recipe, compute_type_name(compute)));
  const auto model = make_model(config, recipe, compute);
  const at::Tensor tokens = random_tokens(2, 80, config.vocab_size);
  const at::Tensor whole = model->logits(tokens);
  KvState state(config.num_layers);
  // A prompt, single tokens, and pieces beyond the cache's first capacity.
  for (const int64_t n : {13, 1, 1, 30, 1, 21, 13}) {
    const at::Tensor last = model->decode(tokens.narrow(1, state.length(), n), state);
    ASSERT_EQ(last.sizes(), (std::vector<int64_t>{2, config.vocab_size}));
    ASSERT_EQ(last.scalar_type(), at::kFloat);
    EXPECT_LT(relative_error(last, whole.select(1, state.length() - 1)), tolerance)
        << "after " << state.length();
  }
  EXPECT_EQ(state.length(), 80);
  // How far a wrong position is: the tolerances above mean something.
  EXPECT_GT(relative_error(whole.select(1, 78), whole.select(1, 79)), 0.3);
}

TEST(LlamaModel, DecodeInPiecesIsLogitsOfTheWhole) {
  LlamaConfig config = small_config();
  expect_decode_is_logits(config, "bf16", ComputeType::kFloat64, 1e-6);
  expect_decode_is_logits(config, "w4a4", ComputeType::kFloat64, 1e-6);
  expect_decode_is_logits(config, "bf16", ComputeType::kFloat32, 1e-5);
  expect_decode_is_logits(config, "bf16", ComputeType::kBFloat16, 0.03);
  // Roundings of another order may flip a code: a step of one value, not more.
  expect_decode_is_logits(config, "w4a4", ComputeType::kFloat32, 0.05);
  expect_decode_is_logits(config, "w4a4", ComputeType::kBFloat16, 0.2);
  config.num_kv_heads = 6;
  config.tie_word_embeddings = true;
  expect_decode_is_logits(config, "bf16", ComputeType::kFloat32, 1e-5);
}

TEST(LlamaModel, TokensSeeOnlyTheirPast) {
  const auto model = make_model(small_config(), "w4a4", ComputeType::kFloat32);
  const at::Tensor tokens = random_tokens(1, 20, 96);
  at::Tensor changed = tokens.clone();
  changed[0][12] = (changed[0][12] + 1) % 96;
  const at::Tensor a = model->logits(tokens)[0], b = model->logits(changed)[0];
  EXPECT_TRUE(at::equal(a.narrow(0, 0, 12), b.narrow(0, 0, 12)));
  for (int64_t t = 12; t < 20; ++t) EXPECT_GT(relative_error(b[t], a[t]), 1e-3) << t;
}

TEST(LlamaModel, RefusesBadTokens) {
  const auto model = make_model(small_config(), "w4a4", ComputeType::kFloat32);
  const at::Tensor tokens = random_tokens(2, 8, 96);
  KvState state(2);
  for (const int64_t bad : {int64_t{96}, int64_t{-1}}) {
    at::Tensor wrong = tokens.clone();
    wrong[1][3].fill_(bad);
    const std::string text = fmt::format("token 11 is {}", bad);
    EXPECT_QUEST_ERROR(model->loss(wrong, tokens), ErrorKind::kData, text);
    EXPECT_QUEST_ERROR(model->token_losses(wrong, tokens), ErrorKind::kData, text);
    EXPECT_QUEST_ERROR(model->logits(wrong), ErrorKind::kData, text);
    EXPECT_QUEST_ERROR(model->decode(wrong, state), ErrorKind::kData, text);
    EXPECT_QUEST_ERROR(model->loss(tokens, wrong), ErrorKind::kData,
                       fmt::format("target 11 is {}", bad));
  }
  for (const at::Tensor& wrong :
       {tokens[0], tokens.to(at::kInt), tokens.narrow(1, 0, 0), tokens.narrow(0, 0, 0)}) {
    EXPECT_QUEST_ERROR(model->logits(wrong), ErrorKind::kUsage, "(B,T) int64");
    EXPECT_QUEST_ERROR(model->decode(wrong, state), ErrorKind::kUsage, "(B,T) int64");
  }
  // Nothing of what was refused is in the state.
  EXPECT_EQ(state.length(), 0);
  EXPECT_EQ(model->decode(tokens, state).sizes(), (std::vector<int64_t>{2, 96}));
}

TEST(LlamaModel, RefusesTooLongSequencesAndForeignStates) {
  const auto model = make_model(small_config(), "w4a4", ComputeType::kFloat32);
  const at::Tensor tokens = random_tokens(1, 81, 96);
  EXPECT_QUEST_ERROR(model->logits(tokens), ErrorKind::kUsage, "81 positions");
  KvState state(2);
  model->decode(tokens.narrow(1, 0, 80), state);
  EXPECT_QUEST_ERROR(model->decode(tokens.narrow(1, 80, 1), state), ErrorKind::kUsage,
                     "81 positions");
  KvState batch(2), shallow(1);
  model->decode(random_tokens(3, 4, 96), batch);
  EXPECT_QUEST_ERROR(model->decode(random_tokens(2, 4, 96), batch), ErrorKind::kUsage,
                     "batch of 2, the state holds 3");
  EXPECT_QUEST_ERROR(model->decode(random_tokens(2, 4, 96), shallow), ErrorKind::kUsage,
                     "1 layers, the model has 2");
}

TEST(LlamaModel, RefusesImpossibleRecipes) {
  LlamaConfig config = small_config();
  config.intermediate_size = 100;
  EXPECT_QUEST_ERROR(LlamaModel(config, recipe_from_name("w4a4"), ComputeType::kFloat32),
                     ErrorKind::kUsage, "MLP down projection");
  EXPECT_QUEST_ERROR(
      LlamaModel(config, recipe_from_name("int4_4of8_nohadamard"), ComputeType::kFloat32),
      ErrorKind::kUsage, "100");
  LlamaModel(config, recipe_from_name("bf16"), ComputeType::kFloat32);
  LlamaModel(config, recipe_from_name("w4a4_nohadamard"), ComputeType::kFloat32);
}

TEST(LlamaModel, WithoutQuantizersItIsThePlainModelOfItsWeights) {
  const auto quantized = make_model(small_config(), "w2a2", ComputeType::kFloat32);
  const auto plain = make_model(small_config(), "bf16", ComputeType::kFloat32);
  const at::Tensor tokens = random_tokens(2, 7, 96);
  const at::Tensor with = quantized->logits(tokens);
  for (QuantLinear* layer : quantized->layers()) layer->quantize(false);
  EXPECT_TRUE(at::equal(quantized->logits(tokens), plain->logits(tokens)));
  for (QuantLinear* layer : quantized->layers()) layer->quantize(true);
  EXPECT_TRUE(at::equal(quantized->logits(tokens), with));
  EXPECT_FALSE(at::equal(with, plain->logits(tokens)));
}

TEST(LlamaModel, WatchersSeeInputsAndTheResidualStream) {
  const LlamaConfig config = small_config();
  const auto model = make_model(config, "w4a4", ComputeType::kFloat32);
  const at::Tensor tokens = random_tokens(2, 7, 96);
  const double unwatched = model->loss(tokens, tokens).item<double>();
  std::vector<std::string> names;
  std::vector<at::Tensor> residuals;
  for (QuantLinear* layer : model->layers()) {
    layer->watch([&, layer](const LayerInput& input) {
      names.push_back(layer->name());
      EXPECT_FALSE(input.values.requires_grad());
      EXPECT_EQ(input.values.size(-1), layer->weight().size(1));
      if (input.residual.defined()) residuals.push_back(input.residual);
    });
  }
  const at::Tensor loss = model->loss(tokens, tokens);
  EXPECT_EQ(loss.item<double>(), unwatched);
  const std::string first = "model.layers.0.", last = "model.layers.1.";
  EXPECT_EQ(names,
            (std::vector<std::string>{first + "self_attn.qkv_proj", first + "self_attn.o_proj",
                                      first + "mlp.gate_up_proj", first + "mlp.down_proj",
                                      last + "self_attn.qkv_proj", last + "self_attn.o_proj",
                                      last + "mlp.gate_up_proj", last + "mlp.down_proj"}));
  ASSERT_EQ(residuals.size(), 4u);
  const auto gradients = torch::autograd::grad({loss}, residuals, {}, /*retain_graph=*/true);
  // What arrives at the first block is what the embedding's rows get.
  model->zero_grad();
  loss.backward();
  const at::Tensor embedding = model->parameters().front().tensor;
  const at::Tensor rows = at::zeros_like(embedding).index_add(
      0, tokens.view(-1), gradients[0].reshape({-1, config.hidden_size}));
  EXPECT_TRUE(at::allclose(rows, embedding.grad(), 1e-5, 1e-8));
  EXPECT_GT(embedding.grad().abs().max().item<double>(), 0);

  for (QuantLinear* layer : model->layers()) layer->watch({});
  names.clear();
  model->loss(tokens, tokens);
  EXPECT_TRUE(names.empty());
}

TEST(ComputeTypes, NamesAndTheirErrors) {
  for (const ComputeType type :
       {ComputeType::kFloat32, ComputeType::kBFloat16, ComputeType::kFloat64}) {
    EXPECT_EQ(compute_type_from_name(compute_type_name(type)), type);
  }
  EXPECT_QUEST_ERROR(compute_type_from_name("fp16"), ErrorKind::kUsage, "'fp16' is unknown");
}

}  // namespace
}  // namespace quest::nn
