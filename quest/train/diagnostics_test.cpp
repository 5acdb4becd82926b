#include "quest/train/diagnostics.h"

#include <limits>

#include <ATen/ops/allclose.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "quest/base/testing.h"
#include "quest/ops/testing_tensors.h"
#include "quest/train/testing_text.h"

namespace quest::train {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

class DiagnosticsTest : public ::testing::Test {
 protected:
  TokenFile tokens(int64_t count, int64_t first = 0) const {
    const auto path = folder_ / fmt::format("{}.qtok", first + count);
    std::vector<int32_t> ids;  // none twice in a hundred
    for (int64_t k = first; k < first + count; ++k) {
      ids.push_back(static_cast<int32_t>(k * 37 % 100));
    }
    testing::write_tokens(path, ids);
    return TokenFile::open(path);
  }

  static TrainConfig config() {
    TrainConfig c;
    c.train.sequence_length = 12;
    c.train.batch_size = 8;
    c.diagnostics.every = 5;
    c.diagnostics.batch_size = 3;
    return c;
  }

  static std::unique_ptr<nn::LlamaModel> model(
      const char* recipe, nn::ComputeType compute = nn::ComputeType::kFloat32) {
    LlamaConfig c;
    c.vocab_size = 257;
    c.hidden_size = 32;
    c.intermediate_size = 64;
    c.num_layers = 3;
    c.num_heads = 2;
    c.num_kv_heads = 2;
    c.head_dim = 16;
    c.max_position_embeddings = 64;
    auto out = std::make_unique<nn::LlamaModel>(c, recipe_from_name(recipe), compute);
    out->init_weights(1);
    const at::NoGradGuard no_grad;  // blocks that matter, as after training
    for (const nn::NamedParameter& p : out->parameters()) {
      if (p.weight_decay) at::Tensor(p.tensor).mul_(8);
    }
    return out;
  }

  static std::vector<double> cosines(const nlohmann::ordered_json& json) {
    std::vector<double> out;
    for (const auto& part : json.at("gradient_cosine")) {
      EXPECT_EQ(part["block"], out.size() / 2);
      EXPECT_EQ(part["part"], out.size() % 2 == 0 ? "attn" : "mlp");
      out.push_back(part.at("mean").get<double>());
    }
    return out;
  }

  const testing::ThreadCount one_thread_{1};
  testing::TemporaryFolder folder_;
};

TEST_F(DiagnosticsTest, NamesEveryLayerAndBothSides) {
  const auto m = model("w4a4");
  const TokenFile file = tokens(100);
  const Diagnostics::Report report = Diagnostics(*m, file, config()).measure(0);
  ASSERT_THAT(report.json.at("layers"), SizeIs(12));
  size_t k = 0;
  for (const auto& layer : report.json.at("layers")) {
    const nn::QuantLinear& own = *m->layers()[k++];
    EXPECT_EQ(layer["name"], own.name());
    SideStatistics weight(own.recipe().weight, "w");
    weight.add(own.weight());
    EXPECT_EQ(layer["weight"], weight.json());
    EXPECT_EQ(layer["input"].size(), weight.json().size());
  }
  EXPECT_THAT(report.histograms, SizeIs(12 * 2 * 2));
  EXPECT_EQ(report.histograms[2].tag, "diagnostics.values/model.layers.0.self_attn.qkv_proj.input");
  EXPECT_EQ(report.histograms[2].count, 3 * 12 * 32);  // 3 sequences of 12 tokens
  EXPECT_FALSE(report.json.contains("masks_retained"));
}

TEST_F(DiagnosticsTest, CosineIsOneWithoutQuantizersAndLessWithFewerBits) {
  const TokenFile file = tokens(100);
  const auto measure = [&](const char* recipe, nn::ComputeType compute) {
    const auto m = model(recipe, compute);
    return Diagnostics(*m, file, config()).measure(0).json;
  };
  const auto plain = measure("bf16", nn::ComputeType::kBFloat16);
  EXPECT_THAT(cosines(plain), ElementsAre(1, 1, 1, 1, 1, 1));
  EXPECT_EQ(plain["gradient_cosine"][0]["std"], 0);
  EXPECT_EQ(plain["layers"][0]["input"].size(), 2u);  // the two kurtoses
  const auto eight = cosines(measure("w8a8", nn::ComputeType::kFloat32));
  const auto four = cosines(measure("w4a4", nn::ComputeType::kFloat32));
  const auto one = cosines(measure("w1a1", nn::ComputeType::kFloat32));
  for (size_t part = 0; part < 6; ++part) {
    EXPECT_LT(one[part], four[part]) << part;
    EXPECT_LT(four[part], eight[part]) << part;
    EXPECT_LT(eight[part], 1) << part;
    EXPECT_GT(eight[part], 0.99) << part;
  }
  EXPECT_LT(one[0], one[5]);  // errors add up towards block 0
}

// Against two models that autograd differentiates with respect to the embedding's rows: where a
// sequence has no token twice, these are the gradients at block 0.
TEST_F(DiagnosticsTest, CosineAtTheFirstBlockIsThatOfTheEmbeddingsGradient) {
  TrainConfig c = config();
  c.diagnostics.batch_size = 1;
  const TokenFile file = tokens(13);
  std::vector<int32_t> ids(13);
  file.read(0, ids);
  at::Tensor all = at::zeros({1, 13}, at::kLong);
  std::copy(ids.begin(), ids.end(), all.data_ptr<int64_t>());
  std::vector<at::Tensor> rows;
  for (const char* recipe : {"w2a2", "bf16"}) {
    const auto m = model(recipe);
    m->loss(all.narrow(1, 0, 12), all.narrow(1, 1, 12)).backward();
    rows.push_back(m->parameters()
                       .front()
                       .tensor.grad()
                       .index_select(0, all.narrow(1, 0, 12).view(-1))
                       .to(at::kDouble));
  }
  const at::Tensor cosine =
      (rows[0] * rows[1]).sum(-1) / (rows[0].norm(2, -1) * rows[1].norm(2, -1));
  const auto m = model("w2a2");
  const auto json = Diagnostics(*m, file, c).measure(0).json;
  EXPECT_NEAR(json["gradient_cosine"][0]["mean"].get<double>(), cosine.mean().item<double>(), 2e-6);
  EXPECT_NEAR(json["gradient_cosine"][0]["std"].get<double>(),
              cosine.std(/*unbiased=*/false).item<double>(), 2e-6);
}

TEST_F(DiagnosticsTest, ABatchIsTheMeanOfItsSequences) {
  TrainConfig c = config();
  const auto measure = [&](const TokenFile& file, int64_t batch) {
    c.diagnostics.batch_size = batch;
    const auto m = model("w1a1");
    return Diagnostics(*m, file, c).measure(0).json;
  };
  const auto both = measure(tokens(25), 2), first = measure(tokens(13), 1),
             second = measure(tokens(13, 12), 1);
  for (size_t part = 0; part < 6; ++part) {
    EXPECT_NEAR(cosines(both)[part], (cosines(first)[part] + cosines(second)[part]) / 2, 2e-6);
  }
  const auto masked = [](const nlohmann::ordered_json& json) {
    return json["layers"][2]["input"]["masked"].get<double>();
  };
  EXPECT_NEAR(masked(both), (masked(first) + masked(second)) / 2, 2e-6);
  EXPECT_NE(masked(first), masked(second));
}

TEST_F(DiagnosticsTest, LeavesTheModelAsItWas) {
  const TokenFile file = tokens(100);
  for (const nn::Recompute how : {nn::Recompute::kOff, nn::Recompute::kBlock}) {
    const auto watched = model("w2a2"), alone = model("w2a2");
    Diagnostics diagnostics(*watched, file, config());
    watched->set_recompute(how);
    alone->set_recompute(how);
    const at::Tensor ids = at::zeros({2, 9}, at::kLong) + 5;
    const auto first = diagnostics.measure(0).json;
    for (const nn::NamedParameter& p : watched->parameters()) {
      EXPECT_FALSE(p.tensor.grad().defined()) << p.name;
    }
    watched->loss(ids, ids).backward();
    alone->loss(ids, ids).backward();
    EXPECT_EQ(diagnostics.measure(5).json["layers"], first["layers"]);
    EXPECT_EQ(watched->recompute(), how);
    for (size_t k = 0; k < alone->parameters().size(); ++k) {
      const nn::NamedParameter a = alone->parameters()[k], b = watched->parameters()[k];
      EXPECT_TRUE(at::equal(a.tensor.grad(), b.tensor.grad())) << a.name;
    }
  }
}

TEST_F(DiagnosticsTest, AfterAnErrorTheModelIsAsItWas) {
  const TokenFile file = tokens(100);
  const auto m = model("w4a4");
  Diagnostics diagnostics(*m, file, config());
  const at::Tensor ids = at::zeros({2, 9}, at::kLong) + 5;
  const at::Tensor before = m->logits(ids);
  // The norm of the second block is no weight of a layer: the error comes amid the forward pass.
  at::Tensor norm;
  for (const nn::NamedParameter& p : m->parameters()) {
    if (p.name == "model.layers.1.input_layernorm.weight") norm = p.tensor.detach();
  }
  const at::Tensor good = norm.clone();
  norm.fill_(std::numeric_limits<double>::quiet_NaN());
  m->set_recompute(nn::Recompute::kMlp);
  EXPECT_QUEST_ERROR(diagnostics.measure(0), ErrorKind::kNumeric,
                     "model.layers.1.self_attn.qkv_proj");
  norm.copy_(good);
  EXPECT_EQ(m->recompute(), nn::Recompute::kMlp);
  EXPECT_TRUE(at::equal(m->logits(ids), before));
  EXPECT_FALSE(diagnostics.measure(0).json.contains("masks_retained"));  // nothing was added
}

TEST_F(DiagnosticsTest, MasksAreKeptForLaterStepsAndForTheCheckpoint) {
  const TokenFile file = tokens(100);
  const auto m = model("w2a2");
  Diagnostics diagnostics(*m, file, config());
  diagnostics.measure(0);
  auto retained = diagnostics.measure(5).json["masks_retained"];
  EXPECT_EQ(retained, nlohmann::ordered_json::parse(R"([{"since_step":0,"retained":1.0}])"));
  diagnostics.save(folder_.path());
  Diagnostics resumed(*m, file, config());
  resumed.load(folder_.path());
  m->init_weights(2);
  retained = diagnostics.measure(10).json["masks_retained"];
  ASSERT_THAT(retained, SizeIs(2));
  EXPECT_EQ(retained[1]["since_step"], 5);
  // Of other weights no more than chance.
  EXPECT_LT(retained[0]["retained"], 0.3);
  EXPECT_EQ(resumed.measure(10).json["masks_retained"], retained);

  const auto other = model("w2a2_ste");
  EXPECT_QUEST_ERROR(Diagnostics(*other, file, config()).load(folder_.path()), ErrorKind::kData,
                     "masks.safetensors");
}

TEST_F(DiagnosticsTest, ShortFilesGiveFewerOrShorterSequences) {
  const auto m = model("w4a4");
  const auto values = [&](int64_t count) {
    const TokenFile file = tokens(count);
    return Diagnostics(*m, file, config()).measure(0).histograms[2].count / 32;
  };
  EXPECT_EQ(values(37), 36);
  EXPECT_EQ(values(36), 24);  // the last target is missing
  EXPECT_EQ(values(13), 12);
  EXPECT_EQ(values(6), 5);
  const TokenFile one = tokens(1);
  EXPECT_QUEST_ERROR(Diagnostics(*m, one, config()), ErrorKind::kData, "1.qtok has 1 tokens");
  TrainConfig fp8 = config();  // which takes multiples of 16 tokens
  fp8.train.backward = "fp8";
  const TokenFile file = tokens(40);
  EXPECT_QUEST_ERROR(Diagnostics(*m, file, fp8), ErrorKind::kData, "need at least 16");
  fp8.train.sequence_length = 20;
  EXPECT_EQ(Diagnostics(*m, file, fp8).measure(0).histograms[2].count / 32, 32);
}

TEST_F(DiagnosticsTest, ThePlanSaysWhatTheyTake) {
  TrainConfig c = config();
  c.quant = recipe_from_name("w4a4");
  c.diagnostics.keep_masks = 4;
  const auto m = model("w4a4");
  // 5 + 1 times 3 sequences, forward and two thirds of backward, twice, beside 25 x 8 sequences.
  EXPECT_THAT(diagnostics_plan(c, m->config(), 25),
              StartsWith("6 times (every 5 steps and before the first): 3 sequences twice, at most "
                         "12 % of the training's products; memory 15.5 kB for masks of 4 steps"));
  c.quant = recipe_from_name("bf16");
  EXPECT_THAT(diagnostics_plan(c, m->config(), 25), HasSubstr("memory 0 B"));
  c.diagnostics.every = 0;
  EXPECT_EQ(diagnostics_plan(c, m->config(), 25), "");
}

}  // namespace
}  // namespace quest::train
