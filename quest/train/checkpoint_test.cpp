#include "quest/train/checkpoint.h"

#include <fstream>
#include <set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/testing.h"
#include "quest/train/testing_train_state.h"
#include "quest/train/weights.h"

namespace quest::train {
namespace {

namespace fs = std::filesystem;

LlamaConfig tiny_shape() {
  LlamaConfig c;
  c.vocab_size = 257;
  c.hidden_size = 32;
  c.intermediate_size = 64;
  c.num_layers = 2;
  c.num_heads = 2;
  c.num_kv_heads = 1;
  c.head_dim = 16;
  c.max_position_embeddings = 16;
  return c;
}

// A model with optimizer and averages that have seen two steps.
struct Fixture {
  explicit Fixture(const std::string& optimizer_name = "adamw", uint64_t seed = 1,
                   const LlamaConfig& shape = tiny_shape())
      : model(shape, recipe_from_name("w4a4"), nn::ComputeType::kFloat32) {
    model.init_weights(seed);
    TrainConfig::Optimizer settings;
    settings.name = optimizer_name;
    optimizer = make_optimizer(settings, model.parameters());
    TrainConfig::Averaging averaging;
    if (optimizer_name == "adamw") averaging.ema_decay = 0.9;
    averages = std::make_unique<WeightAverages>(averaging, model.parameters());
  }
  void train(int steps) {
    for (int k = 0; k < steps; ++k) {
      const at::Tensor tokens = at::arange(2 * 9, at::kLong).view({2, 9}) + 10 * k;
      model.zero_grad();
      model.loss(tokens.narrow(1, 0, 8).contiguous(), tokens.narrow(1, 1, 8).contiguous())
          .backward();
      optimizer->step(1e-2);
      averages->update(k + 1);
    }
  }
  CheckpointParts parts() { return {model, *optimizer, *averages, *tokenizer, "# config\n"}; }
  std::vector<at::Tensor> everything() {
    std::vector<at::Tensor> out;
    for (const auto& p : model.parameters()) out.push_back(p.tensor.detach().clone());
    for (const auto& s : optimizer->state()) out.push_back(s.tensor.clone());
    for (const auto& s : averages->state()) out.push_back(s.tensor.clone());
    return out;
  }

  nn::LlamaModel model;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<WeightAverages> averages;
  std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
};

void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t k = 0; k < a.size(); ++k) EXPECT_TRUE(at::equal(a[k], b[k])) << k;
}

TEST(Checkpoint, RestoresEveryBit) {
  for (const char* name : {"adamw", "sgd", "schedule_free_adamw"}) {
    const testing::TemporaryFolder run;
    Fixture before(name);
    before.train(3);
    const auto expected = before.everything();
    const fs::path path = save_checkpoint(run.path(), before.parts(), testing::state_at(3));
    expect_equal(before.everything(), expected);  // saving changes nothing
    EXPECT_EQ(path.filename(), "step-00000003");
    EXPECT_TRUE(fs::equivalent(run.path() / "checkpoints" / "latest", path));

    Fixture after(name, /*seed=*/2);
    const TrainState state = load_checkpoint(path, after.parts(), true);
    expect_equal(after.everything(), expected);
    EXPECT_EQ(to_json(state), to_json(testing::state_at(3)));
    EXPECT_EQ(after.optimizer->steps(), 3);
    before.train(2);
    after.train(2);
    expect_equal(after.everything(), before.everything());
  }
}

TEST(Checkpoint, ScheduleFreeSavesThePointToEvaluate) {
  const testing::TemporaryFolder run;
  Fixture setup("schedule_free_adamw");
  setup.train(3);
  const fs::path path = save_checkpoint(run.path(), setup.parts(), testing::state_at(3));
  Fixture loaded("adamw");
  load_weights(loaded.model, path);
  const at::Tensor y = setup.model.parameters()[0].tensor.detach().clone();
  setup.optimizer->to_evaluation_point();
  const at::Tensor x = setup.model.parameters()[0].tensor.detach().clone();
  setup.optimizer->to_training_point();
  EXPECT_TRUE(at::equal(loaded.model.parameters()[0].tensor, x));
  EXPECT_FALSE(at::equal(x, y));
}

TEST(Checkpoint, AnotherRuleIsAnErrorOrStartsAnew) {
  const testing::TemporaryFolder run;
  Fixture sgd("sgd");
  sgd.train(1);
  const fs::path path = save_checkpoint(run.path(), sgd.parts(), testing::state_at(1));
  Fixture adam("adamw");
  EXPECT_QUEST_ERROR(load_checkpoint(path, adam.parts(), true), ErrorKind::kData, "'sgd'");
  load_checkpoint(path, adam.parts(), false);
  EXPECT_EQ(adam.optimizer->steps(), 0);
  EXPECT_TRUE(at::equal(adam.model.parameters()[0].tensor, sgd.model.parameters()[0].tensor));
}

// Every file truncated, emptied, removed and with one bit flipped: never taken, the older one is.
TEST(Checkpoint, DamagedOnesAreLeftAside) {
  const testing::TemporaryFolder run;
  Fixture setup;
  const fs::path good = save_checkpoint(run.path(), setup.parts(), testing::state_at(1));
  const fs::path newest = save_checkpoint(run.path(), setup.parts(), testing::state_at(2));
  EXPECT_EQ(find_checkpoints(run.path()).valid, std::vector<fs::path>{newest});
  EXPECT_EQ(find_checkpoints(run.path(), true).valid, (std::vector<fs::path>{newest, good}));
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(newest)) files.push_back(entry.path());
  EXPECT_GE(files.size(), 6u);
  for (const fs::path& file : files) {
    const std::string content = read_file(file);
    std::string flipped = content;
    flipped[content.size() / 2] = static_cast<char>(flipped[content.size() / 2] ^ 4);
    for (const std::string& broken :
         {content.substr(0, content.size() / 2), flipped, std::string()}) {
      std::ofstream(file, std::ios::binary | std::ios::trunc) << broken;
      const CheckpointScan scan = find_checkpoints(run.path());
      EXPECT_EQ(scan.valid, std::vector<fs::path>{good}) << file;
      ASSERT_EQ(scan.broken.size(), 1u) << file;
      EXPECT_NE(scan.broken[0].find("step-00000002"), std::string::npos) << scan.broken[0];
      EXPECT_THROW(load_checkpoint(newest, setup.parts(), true), Error) << file;
    }
    fs::remove(file);
    EXPECT_EQ(find_checkpoints(run.path()).valid, std::vector<fs::path>{good}) << file;
    std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
    EXPECT_EQ(find_checkpoints(run.path()).valid, std::vector<fs::path>{newest}) << file;
  }
}

TEST(Checkpoint, KeepsTheLastAndTheBest) {
  const testing::TemporaryFolder run;
  Fixture setup;
  const double losses[] = {3.0, 1.5, 2.0, 2.5, 1.6};
  for (int64_t step = 1; step <= 5; ++step) {
    TrainState state = testing::state_at(step);
    state.validation_loss = losses[step - 1];
    if (step == 4) state.validation_loss.reset();
    save_checkpoint(run.path(), setup.parts(), state);
    prune_checkpoints(run.path(), 2, true);
  }
  const fs::path folder = run.path() / "checkpoints";
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.insert(entry.path().filename().string());
  }
  EXPECT_EQ(names, (std::set<std::string>{"best", "latest", "step-00000002", "step-00000004",
                                          "step-00000005"}));
  EXPECT_EQ(fs::read_symlink(folder / "best"), "step-00000002");
  EXPECT_EQ(fs::read_symlink(folder / "latest"), "step-00000005");
  prune_checkpoints(run.path(), 1, false);
  EXPECT_FALSE(fs::exists(folder / "step-00000002"));
  EXPECT_TRUE(fs::exists(folder / "step-00000005"));
}

// A Hugging Face folder: shards with an index, F16, BF16 and F32 tensors, rotary tables.
TEST(Weights, ShardedHuggingFaceFolder) {
  const testing::TemporaryFolder folder;
  Fixture source;
  std::vector<at::Tensor> values;
  SafetensorsWriter first(folder.path() / "model-00001-of-00002.safetensors");
  SafetensorsWriter second(folder.path() / "model-00002-of-00002.safetensors");
  nlohmann::json index;
  size_t k = 0;
  for (const nn::HfTensor& t : source.model.hf_tensors()) {
    const at::ScalarType types[] = {at::kFloat, at::kBFloat16, at::kHalf};
    values.push_back(t.view.detach().to(types[k % 3]).contiguous());
    add_tensor(k % 2 ? second : first, t.name, values.back());
    index["weight_map"][t.name] =
        k % 2 ? "model-00002-of-00002.safetensors" : "model-00001-of-00002.safetensors";
    ++k;
  }
  const at::Tensor table = at::zeros({8});
  add_tensor(first, "model.layers.0.self_attn.rotary_emb.inv_freq", table);
  first.finish();
  second.finish();
  const fs::path index_file = folder.write("model.safetensors.index.json", index.dump());
  Fixture loaded("adamw", 5);
  load_weights(loaded.model, folder.path());
  const auto tensors = loaded.model.hf_tensors();
  for (size_t j = 0; j < tensors.size(); ++j) {
    EXPECT_TRUE(at::equal(tensors[j].view.detach(), values[j].to(at::kFloat))) << tensors[j].name;
  }

  index["weight_map"]["extra.weight"] = "model-00001-of-00002.safetensors";
  folder.write("model.safetensors.index.json", index.dump());
  EXPECT_QUEST_ERROR(load_weights(loaded.model, folder.path()), ErrorKind::kData, "extra.weight");
  index["weight_map"]["extra.weight"] = "../model.safetensors";
  folder.write("model.safetensors.index.json", index.dump());
  EXPECT_QUEST_ERROR(load_weights(loaded.model, folder.path()), ErrorKind::kData,
                     "../model.safetensors");
  folder.write("model.safetensors.index.json", "{}");
  EXPECT_QUEST_ERROR(load_weights(loaded.model, folder.path()), ErrorKind::kData, "weight_map");
  fs::remove(index_file);
  EXPECT_QUEST_ERROR(load_weights(loaded.model, folder.path()), ErrorKind::kIo, "neither");
}

TEST(Weights, MissingUnknownAndMisshapenTensorsAreNamed) {
  const testing::TemporaryFolder folder;
  Fixture source;
  LlamaConfig shape = tiny_shape();
  shape.num_layers = 3;
  save_weights(source.model, folder.path() / "model.safetensors", DType::kF32);
  Fixture deeper("adamw", 1, shape);
  EXPECT_QUEST_ERROR(load_weights(deeper.model, folder.path()), ErrorKind::kData,
                     "missing: model.layers.2.");
  shape.num_layers = 1;
  Fixture flatter("adamw", 1, shape);
  EXPECT_QUEST_ERROR(load_weights(flatter.model, folder.path()), ErrorKind::kData,
                     "unknown: model.layers.1.");
  shape = tiny_shape();
  shape.intermediate_size = 96;
  Fixture wider("adamw", 1, shape);
  const at::Tensor before = wider.model.parameters()[0].tensor.detach().clone();
  EXPECT_QUEST_ERROR(load_weights(wider.model, folder.path()), ErrorKind::kData, "(64, 32)");
  EXPECT_TRUE(at::equal(wider.model.parameters()[0].tensor, before));
}

TEST(Weights, TiedModelsAndBf16) {
  const testing::TemporaryFolder folder;
  LlamaConfig shape = tiny_shape();
  shape.tie_word_embeddings = true;
  Fixture tied("adamw", 1, shape);
  SafetensorsWriter writer(folder.path() / "model.safetensors");
  std::vector<at::Tensor> values;
  for (const nn::HfTensor& t : tied.model.hf_tensors()) {
    values.push_back(t.view.detach().clone());
    add_tensor(writer, t.name, values.back());
  }
  const at::Tensor head = at::zeros({257, 32});
  add_tensor(writer, "lm_head.weight", head);
  writer.finish();
  Fixture other("adamw", 9, shape);
  load_weights(other.model, folder.path());
  EXPECT_TRUE(at::equal(other.model.parameters()[0].tensor, tied.model.parameters()[0].tensor));

  save_weights(tied.model, folder.path() / "model.safetensors", DType::kBF16);
  load_weights(other.model, folder.path());
  EXPECT_TRUE(
      at::equal(other.model.parameters()[0].tensor.detach(),
                tied.model.parameters()[0].tensor.detach().to(at::kBFloat16).to(at::kFloat)));
}

}  // namespace
}  // namespace quest::train
