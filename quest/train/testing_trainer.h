// What tests of training runs share: a small model on a small text, and what a run leaves. Tests
// only; header only.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "quest/base/safetensors.h"
#include "quest/base/shutdown.h"
#include "quest/base/testing.h"
#include "quest/model/checkpoint_files.h"
#include "quest/train/testing_text.h"
#include "quest/train/trainer.h"
#include "quest/train/weights.h"

namespace quest::testing {

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_tokens(folder_ / "train.qtok", markov_text(3000, 1));
    write_tokens(folder_ / "validation.qtok", markov_text(400, 2));
    reset_shutdown_signal();
  }
  void TearDown() override { reset_shutdown_signal(); }

  // 6 steps of 4 sequences of 16 bytes with a model of 2 blocks.
  train::TrainConfig tiny(const std::string& name) const {
    train::TrainConfig c;
    c.run.name = name;
    c.run.folder = (folder_ / "runs").string();
    c.run.threads = 1;
    c.model.preset = "none";
    c.model.hidden_size = 32;
    c.model.num_layers = 2;
    c.model.num_heads = 2;
    c.model.intermediate_size = 64;
    c.quant = recipe_from_name("w4a4");
    c.data.train = folder_.path().string();
    c.data.tokenizer = "bytes";
    c.train.steps = 6;
    c.train.batch_size = 4;
    c.train.sequence_length = 16;
    c.train.compute_type = "fp32";
    c.optimizer.lr = 1e-2;
    c.eval.every = 2;
    c.eval.tokens = 100;
    c.checkpoint.every = 2;
    c.checkpoint.minutes = 0;
    c.log.tensorboard = true;
    c.log.peak_tflops = 1;
    return c;
  }

  train::TrainOutcome train(const train::TrainConfig& config) {
    train::SingleProcess group;
    train::Trainer trainer(config, group);
    return trainer.run();
  }

  TemporaryFolder folder_;
};

inline std::string weights(const train::TrainOutcome& outcome) {
  return outcome.summary.at("weights_xxh3_128").get<std::string>();
}

// The first value of each tensor that quantizers learned.
inline std::vector<float> learned_values(const train::TrainOutcome& outcome) {
  const SafetensorsReader file(outcome.run / "final" / "model.safetensors");
  std::vector<float> values;
  for (const TensorView& t : file.tensors()) {
    if (is_quantizer_tensor(t.name)) values.push_back(t.to_vector<float>().at(0));
  }
  return values;
}

// The lines of metrics.jsonl without what depends on the clock.
inline std::vector<nlohmann::ordered_json> metrics(const std::filesystem::path& run) {
  std::vector<nlohmann::ordered_json> out;
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    out.push_back(nlohmann::ordered_json::parse(line));
    for (const char* key : {"tokens_per_second", "mfu", "seconds"}) out.back().erase(key);
  }
  return out;
}

}  // namespace quest::testing
