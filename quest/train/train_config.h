// Every setting of a training run, declared once.
//
// list_settings() (settings.cpp) is the one declaration: key, flag, default, help, range. From
// it come the command line (`quest train --optimizer.lr 1e-3`, or `--lr 1e-3` where a short flag
// exists), the TOML file, `--help`, the run's config.toml (which reproduces the run) and the hash
// in the run folder's name. Values are applied in the order of declaration, file before flags:
//
//   TrainConfig config;
//   apply_toml(config, parse_toml_file("configs/demo.toml"));  // an unknown key is an error
//   apply_setting(config, "quant.recipe", "w4a4");
//   finish_config(config);                                     // checks combinations
//   write_file_atomically("config.toml", config_to_toml(config));
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quest/model/llama_config.h"
#include "quest/quant/quant_spec.h"
#include "quest/train/toml.h"

namespace CLI {
class App;
}

namespace quest::train {

struct TrainConfig {
  struct Run {
    std::string name;             // first part of the run folder's name; empty: the recipe's name
    std::string folder = "runs";  // run folders are made in here
    std::string init;             // checkpoint or Hugging Face folder to take weights from
    std::string parent;           // checkpoint that this run continues (set by --continue)
    int64_t seed = 0;
    int64_t threads = 0;
  } run;

  struct Model {  // 0 in a size: from the preset; see resolve_model
    std::string preset = "30M";
    int64_t vocab_size = 0;
    int64_t hidden_size = 0;
    int64_t num_layers = 0;
    int64_t num_heads = 0;
    int64_t num_kv_heads = 0;
    int64_t head_dim = 0;
    int64_t intermediate_size = 0;
    int64_t max_position_embeddings = 0;
    double rms_norm_eps = 1e-5;
    double rope_theta = 10000;
    std::string rope_scaling = "none";
    double rope_scaling_factor = 1;
    double rope_low_frequency_factor = 1;
    double rope_high_frequency_factor = 4;
    int64_t rope_original_max_position = 0;
    bool tie_word_embeddings = false;
  } model;

  QuantRecipe quant = recipe_from_name("bf16");
  // A setting of quant was given, by file or flag; otherwise run.init's recipe is taken over. No
  // setting itself.
  bool quant_given = false;

  struct Data {
    std::string train;       // token files, or a folder made by `quest data`
    std::string validation;  // token file; empty: the folder's validation.qtok if there is one
    std::string tokenizer;   // file, folder or "bytes"; empty: the folder of the token file
    bool shuffle = true;
    bool mask_document_starts = false;
  } data;

  struct Train {
    int64_t steps = 0;  // exactly one of steps, tokens and epochs is given
    int64_t tokens = 0;
    double epochs = 0;
    int64_t batch_size = 512;      // sequences per optimizer step, over all ranks
    int64_t micro_batch_size = 0;  // sequences per forward pass and rank; 0: batch_size / ranks
    int64_t sequence_length = 512;
    std::string compute_type = "bf16";
    std::string device = "cpu";
    std::string recompute = "off";
    std::string backward = "bf16";
    std::string gradient_format = "e4m3";
    std::string gradient_rounding = "nearest";
    bool gradient_hadamard = false;
    bool cuda_graphs = true;
    bool deterministic = false;
  } train;

  struct Optimizer {
    std::string name = "adamw";
    double lr = 1.2e-3;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.1;
    double quantizer_weight_decay = 0.1;  // of what registered quantizers learn
    double momentum = 0.9;                // SGD
    bool nesterov = false;                // SGD
    double clip_norm = 1;
  } optimizer;

  struct Schedule {
    std::string name = "onecycle";
    double warmup_fraction = 0.1;
    int64_t warmup_steps = 0;
    double div_factor = 100;
    double final_div_factor = 0.1;
    double decay_fraction = 0.1;
    std::string decay_shape = "linear";
    double decay_final_factor = 0;
    double constant_fraction = 0.1;
  } schedule;

  struct Eval {
    int64_t every = 100;
    int64_t tokens = 65536;
    int64_t batch_size = 0;
    bool full_at_end = true;
  } eval;

  struct CheckpointSettings {
    int64_t every = 1000;
    double minutes = 30;
    int64_t keep_last = 2;
    bool keep_best = true;
    std::string export_dtype = "fp32";
  } checkpoint;

  struct Guards {
    std::string nonfinite = "skip";
    int64_t max_skipped = 20;
    std::string spike = "warn";
    double spike_z = 6;
    int64_t spike_window = 128;
  } guards;

  struct Averaging {
    double ema_decay = 0;
    int64_t horizon = 0;
    int64_t interval = 1;
  } averaging;

  struct Diagnostics {
    int64_t every = 0;
    int64_t batch_size = 4;
    int64_t keep_masks = 8;
  } diagnostics;

  struct Log {
    int64_t every = 1;
    double seconds = 10;
    bool tensorboard = true;
    double peak_tflops = 0;
  } log;
};

// The paper's sizes (QuEST, arXiv 2502.05003, Table 3; 1.6B by its authors' code).
struct ModelPreset {
  std::string name;  // "30M": parameters without embedding and head
  int64_t num_layers, hidden_size, num_heads;
};
const std::vector<ModelPreset>& model_presets();

// One setting of one TrainConfig. get and set refer to that object.
struct Setting {
  std::string key;    // "optimizer.lr"
  std::string flags;  // short flags beside --key: "--lr"; may be empty
  std::string help;
  std::string range;  // "0 to 1", "adamw, sgd, ..."; empty: anything
  bool identity;      // part of the run's identity (hash); false: where and how often only
  bool is_new;        // at its default not in the hash, which older runs have without it
  std::function<TomlValue()> get;
  std::function<void(const TomlValue&)> set;        // throws kUsage with key, value and range
  std::function<TomlValue(std::string_view)> read;  // from a flag's text; throws kUsage
};
std::vector<Setting> list_settings(TrainConfig& config);

// Sets one key from TOML or from a flag's text. Throws kUsage; an unknown key names the nearest.
void apply_setting(TrainConfig& config, std::string_view key, std::string_view text);
void apply_toml(TrainConfig& config, const TomlTable& table);

// The whole configuration with help as comments. parse_toml + apply_toml + finish_config give it
// back exactly. With identity_only, settings that do not change the result are left out.
std::string config_to_toml(const TrainConfig& config);
// 8 hexadecimal digits over every setting that is part of the run's identity.
std::string config_hash(const TrainConfig& config);
// "<name>-<hash8>".
std::string run_folder_name(const TrainConfig& config);

// Checks what ranges cannot: combinations. Renames a recipe whose sides were changed to "custom".
void finish_config(TrainConfig& config);

// The model's shape: preset, overridden by every size that is not 0. tokenizer_vocab: used if
// vocab_size is 0. Throws kUsage.
LlamaConfig resolve_model(const TrainConfig& config, int64_t tokenizer_vocab);

// The flags of all settings on a CLI11 app, and their values as given. apply() after parsing puts
// files first, then flags. A short flag that the app has already stays the app's.
class ConfigFlags {
 public:
  explicit ConfigFlags(CLI::App& app);
  // Flags that were given, in order of declaration, onto config.
  void apply(TrainConfig& config) const;

 private:
  struct Flag;
  std::vector<std::shared_ptr<Flag>> flags_;
};

}  // namespace quest::train
