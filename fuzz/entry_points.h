// What is done with bytes that nobody vouches for: the functions that the fuzz targets and the
// mutation test (tests/mutation_test.cpp) call, and valid inputs to start from.
//
// An entry point may refuse its input with quest::Error; anything else that it does to the process
// is a bug. Each keeps one temporary folder, so one thread at a time.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/safetensors.h"
#include "quest/base/testing.h"
#include "quest/packed/packed_checksum.h"
#include "quest/packed/packed_model.h"
#include "quest/packed/packed_report.h"
#include "quest/packed/random_model.h"
#include "quest/text/sentencepiece_model.h"
#include "quest/text/testing_text.h"
#include "quest/text/tokenizer.h"
#include "quest/text/train_sentencepiece.h"
#include "quest/train/train_config.h"
#include "quest/train/train_state.h"

namespace quest::fuzz {

inline const testing::TemporaryFolder& scratch() {
  static const testing::TemporaryFolder folder;
  return folder;
}

// Runs it; true if the input was accepted.
template <class F>
bool accepts(F&& f) {
  try {
    f();
    return true;
  } catch (const Error&) {
    return false;
  }
}

inline bool read_safetensors(std::string_view input) {
  return accepts([&] {
    const SafetensorsReader reader(scratch().write("x.safetensors", input));
    for (const TensorView& tensor : reader.tensors()) {
      (void)tensor.to_float();
      (void)accepts([&] { (void)tensor.as<float>(); });
      (void)accepts([&] { (void)tensor.as<bool>(); });
    }
  });
}

inline bool read_config(std::string_view input) {
  return accepts([&] {
    QuantRecipe recipe;
    std::optional<PackedSettings> packed;
    const LlamaConfig config =
        load_llama_config(scratch().write("config/config.json", input), &recipe, &packed);
    (void)llama_config_json(config, recipe, "float32", packed);
  });
}

// A packed folder as one input: 4 bytes with the length of config.json, config.json,
// model.safetensors. The file gets the checksum that fits, or nothing behind it would be reached.
inline std::string pack_input(std::string_view config, std::string_view model) {
  const auto size = static_cast<uint32_t>(config.size());
  std::string out(4, '\0');
  std::memcpy(out.data(), &size, 4);
  return out.append(config).append(model);
}

inline void sign(std::string& model) {
  uint64_t header = 0;
  if (model.size() < 8) return;
  std::memcpy(&header, model.data(), 8);
  if (header > model.size() - 8) return;
  const std::string key = "\"checksum\":\"";
  const size_t at = model.find(key) + key.size();
  if (model.find(key) == std::string::npos || at + kChecksumDigits > 8 + header) return;
  const auto bytes = std::as_bytes(std::span(model.data(), model.size()));
  model.replace(at, kChecksumDigits, packed_checksum(bytes, 8 + header, at, nullptr));
}

inline bool read_packed(std::string_view input) {
  uint32_t size = 0;
  if (input.size() < 4) return false;
  std::memcpy(&size, input.data(), 4);
  if (size > input.size() - 4) return false;
  std::string model(input.substr(4 + size));
  sign(model);
  scratch().write("packed/config.json", input.substr(4, size));
  scratch().write("packed/model.safetensors", model);
  return accepts([] {
    const PackedModel read(scratch() / "packed", /*check_values=*/true, /*threads=*/1);
    (void)packed_report(read, true);
  });
}

inline bool read_tokenizer(std::string_view input) {
  return accepts([&] {
    const auto tokenizer = load_tokenizer(scratch().write("tokenizer.model", input));
    (void)tokenizer->decode(tokenizer->encode("In the beginning\xff \xe2\x96\x81 7"));
    for (int32_t id = 0; id < std::min<int64_t>(tokenizer->vocab_size(), 300); ++id) {
      (void)tokenizer->token_bytes(id);
      (void)tokenizer->token_name(id);
    }
  });
}

inline bool read_toml(std::string_view input) {
  return accepts([&] {
    train::TrainConfig config;
    train::apply_toml(config, train::parse_toml(input, "x.toml"));
    train::finish_config(config);
    (void)train::config_to_toml(config);
  });
}

inline bool read_state(std::string_view input) {
  return accepts([&] {
    const nlohmann::json json = read_json(scratch().write("state.json", input));
    (void)train::to_json(train::train_state_from_json(json, "state.json"));
  });
}

struct Target {
  const char* name;
  bool (*run)(std::string_view input);
  std::vector<std::string> (*seeds)();  // valid inputs
};

inline std::vector<std::string> safetensors_seeds() {
  const auto path = scratch() / "seed.safetensors";
  SafetensorsWriter writer(path);
  const std::vector<float> floats{1, -2, 3, 0.5f, 0, 7};
  const std::vector<bfloat16> halves(5);
  const bool flags[3] = {true, false, true};
  writer.set_metadata("format", "pt");
  writer.add<float>("a.weight", {2, 3}, floats);
  writer.add<bfloat16>("b", {5}, halves);
  writer.add<bool>("c", {3, 1}, std::span<const bool>(flags));
  writer.add<float>("empty", {0, 4}, {});
  writer.finish();
  return {read_file(path)};
}

inline LlamaConfig tiny_config(int64_t width) {
  LlamaConfig config;
  config.vocab_size = 257;
  config.hidden_size = width;
  config.intermediate_size = 32;
  config.num_layers = 1;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 16;
  return config;
}

inline std::vector<std::string> config_seeds() {
  LlamaConfig scaled = tiny_config(32);
  scaled.rope_scaling = {"llama3", 8.0, 1.0, 4.0, 64};
  const PackedSettings packed{.version = 1, .embedding = "int8", .head = "int4"};
  return {llama_config_json(tiny_config(16), recipe_from_name("w4a4"), "float32"),
          llama_config_json(scaled, recipe_from_name("int4_4of8"), "bfloat16", packed)};
}

inline std::vector<std::string> packed_seeds() {
  std::vector<std::string> seeds;
  for (const char* name : {"w3a3", "w4a8", "ternary", "fp4", "int4_4of8", "bf16"}) {
    const bool int4 = seeds.size() % 2 == 1;
    LlamaConfig config = tiny_config(int4 ? 32 : 16);
    config.tie_word_embeddings = seeds.size() % 3 != 0;
    const TableFormat format = int4 ? TableFormat::kInt4 : TableFormat::kInt8;
    const auto folder = scratch() / "seed";
    write_random_packed_model(folder, config, recipe_from_name(name),
                              {.formats = {format, format}});
    seeds.push_back(
        pack_input(read_file(folder / "config.json"), read_file(folder / "model.safetensors")));
  }
  return seeds;
}

inline std::vector<std::string> tokenizer_seeds() {
  std::vector<std::string> seeds;
  for (const char* type : {"bpe", "unigram"}) {
    bool given = false;
    const auto tokenizer =
        train_sentencepiece({.vocab_size = 330, .model_type = type}, [&](std::string& text) {
          text = testing::kSampleText;
          return !std::exchange(given, true);
        });
    std::filesystem::create_directories(scratch() / "seed-tokenizer");
    tokenizer->save(scratch() / "seed-tokenizer");
    seeds.push_back(read_file(scratch() / "seed-tokenizer" / "tokenizer.model"));
  }
  return seeds;
}

inline std::vector<std::string> toml_seeds() {
  train::TrainConfig plain, spelled;
  plain.data.train = spelled.data.train = "data";
  plain.train.steps = spelled.train.steps = 16;
  train::apply_setting(spelled, "quant.recipe", "w1a1");
  train::apply_setting(spelled, "run.name", "a \"name\"");
  return {train::config_to_toml(plain), train::config_to_toml(spelled),
          "[quant]\nrecipe = 'w4a4' # comment\n[optimizer]\nlr = 1e-3\n[train]\nsteps = "
          "0x10\n[data]\ntrain = 'data'\n"};
}

inline std::vector<std::string> state_seeds() {
  train::TrainState state;
  state.step = 3;
  state.tokens = 4096;
  state.loader = {7, 48};
  state.parent = "runs/a/checkpoints/step-00000002";
  state.metrics = {123, "events.out.tfevents.1", 45};
  state.validation_loss = 2.5;
  state.evaluation = {{"loss", 2.5}};
  state.guards = {{"window", {0.1, 2.5}}};
  return {train::to_json(train::TrainState()).dump(1), train::to_json(state).dump(1)};
}

inline const std::vector<Target>& targets() {
  static const std::vector<Target> all = {{"safetensors", read_safetensors, safetensors_seeds},
                                          {"config", read_config, config_seeds},
                                          {"packed", read_packed, packed_seeds},
                                          {"tokenizer", read_tokenizer, tokenizer_seeds},
                                          {"toml", read_toml, toml_seeds},
                                          {"state", read_state, state_seeds}};
  return all;
}

}  // namespace quest::fuzz
