#include "quest/train/train_config.h"

#include <algorithm>
#include <map>

#include <CLI/CLI.hpp>

#include "quest/base/checksum.h"
#include "quest/base/error.h"
#include "quest/base/nearest_name.h"

namespace quest::train {
namespace {

std::string_view section_of(std::string_view key) { return key.substr(0, key.rfind('.')); }

[[noreturn]] void unknown_key(const std::vector<Setting>& settings, std::string_view key,
                              const std::string& place) {
  const auto nearest =
      std::min_element(settings.begin(), settings.end(), [&](const Setting& x, const Setting& y) {
        return key_distance(key, x.key) < key_distance(key, y.key);
      });
  QUEST_THROW(ErrorKind::kUsage, "{}unknown setting '{}'; the nearest is '{}' (see --help)",
              place.empty() ? "" : place + ": ", key, nearest->key);
}

// Of values given together (one file, one command line) only one other than 0 may say how long to
// train.
void check_one_length(const std::vector<std::pair<std::string_view, TomlValue>>& given) {
  const auto is_length = [](const auto& setting) {
    const auto& [key, value] = setting;
    const bool is_zero = value == TomlValue(int64_t{0}) || value == TomlValue(0.0);
    return !is_zero && (key == "train.steps" || key == "train.tokens" || key == "train.epochs");
  };
  QUEST_CHECK(std::count_if(given.begin(), given.end(), is_length) <= 1, ErrorKind::kUsage,
              "train.steps, train.tokens and train.epochs: exactly one of them says how long to "
              "train (leave the others out, or 0)");
}

TomlValue read_value(const Setting& s, std::string_view text) {
  try {
    return s.read(text);
  } catch (const Error&) {
    QUEST_THROW(ErrorKind::kUsage, "{} is '{}', allowed: {}", s.key, text, s.range);
  }
}

std::string to_toml(const TrainConfig& config, bool identity_only, bool comments) {
  TrainConfig copy = config, standard;
  const std::vector<Setting> defaults = list_settings(standard);
  std::string out;
  std::string section;
  size_t index = 0;
  for (const Setting& s : list_settings(copy)) {
    const bool is_default = s.get() == defaults[index++].get();
    if (identity_only && (!s.identity || (s.is_new && is_default))) continue;
    if (section_of(s.key) != section) {
      section = section_of(s.key);
      out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section);
    }
    if (comments) {
      out += fmt::format("# {}{}\n", s.help, s.range.empty() ? "" : " (" + s.range + ")");
    }
    out += fmt::format("{} = {}\n", last_part(s.key), toml_text(s.get()));
  }
  return out;
}

// Settings of FP8 backward products that differ from the defaults: "train.gradient_format e5m2".
std::string chosen_fp8_settings(const TrainConfig::Train& train) {
  const TrainConfig::Train standard;
  std::string out;
  const auto add = [&](const char* key, const auto& value, const auto& usual) {
    if (value != usual) out += fmt::format("{}{} {}", out.empty() ? "" : ", ", key, value);
  };
  add("train.gradient_format", train.gradient_format, standard.gradient_format);
  add("train.gradient_rounding", train.gradient_rounding, standard.gradient_rounding);
  add("train.gradient_hadamard", train.gradient_hadamard, standard.gradient_hadamard);
  return out;
}

}  // namespace

const std::vector<ModelPreset>& model_presets() {
  static const std::vector<ModelPreset> presets = {
      {"30M", 6, 640, 5},     {"50M", 7, 768, 6},     {"100M", 8, 1024, 8},
      {"200M", 10, 1280, 10}, {"430M", 13, 1664, 13}, {"800M", 16, 2048, 16},
      {"1.6B", 20, 2560, 20},
  };
  return presets;
}

void apply_setting(TrainConfig& config, std::string_view key, std::string_view text) {
  const std::vector<Setting> settings = list_settings(config);
  for (const Setting& s : settings) {
    if (s.key == key) return s.set(read_value(s, text));
  }
  unknown_key(settings, key, "");
}

void apply_toml(TrainConfig& config, const TomlTable& table) {
  const std::vector<Setting> settings = list_settings(config);
  std::map<std::string_view, const TomlEntry*> entries;
  for (const TomlEntry& entry : table) {
    const bool known = std::any_of(settings.begin(), settings.end(),
                                   [&](const Setting& s) { return s.key == entry.key; });
    if (!known) unknown_key(settings, entry.key, entry.place);
    entries[entry.key] = &entry;
  }
  std::vector<std::pair<std::string_view, TomlValue>> given;
  for (const TomlEntry& entry : table) given.emplace_back(entry.key, entry.value);
  check_one_length(given);
  for (const Setting& s : settings) {
    const auto found = entries.find(s.key);
    if (found == entries.end()) continue;
    try {
      s.set(found->second->value);
    } catch (const Error& error) {
      throw Error(error.kind(), found->second->place + ": " + error.what());
    }
  }
}

std::string config_to_toml(const TrainConfig& config) { return to_toml(config, false, true); }

std::string config_hash(const TrainConfig& config) {
  return checksum128_hex(to_toml(config, true, false)).substr(0, 8);
}

std::string run_folder_name(const TrainConfig& config) {
  const std::string& name = config.run.name.empty() ? config.quant.name : config.run.name;
  return name + "-" + config_hash(config);
}

void finish_config(TrainConfig& config) {
  QuantRecipe& quant = config.quant;
  if (quant.name != "custom") {
    const QuantRecipe named = recipe_from_name(quant.name);
    if (!(named.weight == quant.weight && named.activation == quant.activation)) {
      quant.name = "custom";
    }
  }
  validate(quant);

  const std::string& name = config.run.name;
  QUEST_CHECK(
      name.find('/') == std::string::npos && name != "." && name != ".." && !name.starts_with('-'),
      ErrorKind::kUsage,
      "run.name is \"{}\": it becomes part of a folder's name, so it may not hold '/' nor "
      "begin with '-' (run.folder says where the folder is made)",
      name);
  QUEST_CHECK(!config.run.folder.empty(), ErrorKind::kUsage, "run.folder is empty");
  QUEST_CHECK(config.run.init.empty() || config.run.parent.empty(), ErrorKind::kUsage,
              "run.init and run.parent are both given: a run starts from weights or goes on from a "
              "checkpoint");

  const auto& train = config.train;
  const std::string fp8_settings = chosen_fp8_settings(train);
  QUEST_CHECK(train.backward == "fp8" || fp8_settings.empty(), ErrorKind::kUsage,
              "only FP8 backward products take {}: set train.backward to fp8", fp8_settings);
  QUEST_CHECK(train.backward == "bf16" || train.device == "cuda", ErrorKind::kUsage,
              "train.backward {} needs a GPU: set train.device to cuda", train.backward);
  const int lengths = (train.steps > 0) + (train.tokens > 0) + (train.epochs > 0);
  QUEST_CHECK(
      lengths == 1, ErrorKind::kUsage,
      "train.steps is {}, train.tokens {}, train.epochs {}: exactly one of them must say how "
      "long to train (set another to 0)",
      train.steps, train.tokens, train.epochs);
  const int64_t micro = train.micro_batch_size;
  QUEST_CHECK(micro == 0 || train.batch_size % micro == 0, ErrorKind::kUsage,
              "train.micro_batch_size {} does not divide train.batch_size {}", micro,
              train.batch_size);

  const auto& schedule = config.schedule;
  if (schedule.name == "wsd") {
    QUEST_CHECK(
        schedule.decay_shape != "exp" || schedule.decay_final_factor > 0, ErrorKind::kUsage,
        "schedule.decay_final_factor is 0: an exponential decay never gets there, give e.g. "
        "0.01");
    QUEST_CHECK(
        schedule.warmup_steps > 0 || schedule.warmup_fraction + schedule.decay_fraction <= 1,
        ErrorKind::kUsage,
        "schedule.warmup_fraction {} and schedule.decay_fraction {} are together more than 1",
        schedule.warmup_fraction, schedule.decay_fraction);
  }
  if (schedule.name == "cos_inf") {
    QUEST_CHECK(
        schedule.warmup_steps > 0 || schedule.warmup_fraction + schedule.constant_fraction <= 1,
        ErrorKind::kUsage,
        "schedule.warmup_fraction {} and schedule.constant_fraction {} are together more "
        "than 1",
        schedule.warmup_fraction, schedule.constant_fraction);
  }
  QUEST_CHECK(!config.optimizer.nesterov || config.optimizer.momentum > 0, ErrorKind::kUsage,
              "optimizer.nesterov needs optimizer.momentum above 0");
  QUEST_CHECK(config.averaging.horizon % config.averaging.interval == 0, ErrorKind::kUsage,
              "averaging.interval {} does not divide averaging.horizon {}",
              config.averaging.interval, config.averaging.horizon);
}

LlamaConfig resolve_model(const TrainConfig& config, int64_t tokenizer_vocab) {
  const auto& m = config.model;
  ModelPreset preset{"none", 0, 0, 0};
  for (const ModelPreset& p : model_presets()) {
    if (p.name == m.preset) preset = p;
  }
  const auto pick = [](int64_t chosen, int64_t otherwise) { return chosen ? chosen : otherwise; };
  LlamaConfig out;
  out.vocab_size = pick(m.vocab_size, tokenizer_vocab);
  out.hidden_size = pick(m.hidden_size, preset.hidden_size);
  out.num_layers = pick(m.num_layers, preset.num_layers);
  out.num_heads = pick(m.num_heads, preset.num_heads);
  QUEST_CHECK(out.hidden_size > 0 && out.num_layers > 0 && out.num_heads > 0, ErrorKind::kUsage,
              "model.preset is none: give model.hidden_size, model.num_layers and model.num_heads");
  QUEST_CHECK(out.vocab_size >= tokenizer_vocab, ErrorKind::kUsage,
              "model.vocab_size is {}, the tokenizer has {} tokens (0 takes the tokenizer's)",
              out.vocab_size, tokenizer_vocab);
  QUEST_CHECK(m.head_dim > 0 || out.hidden_size % out.num_heads == 0, ErrorKind::kUsage,
              "model.hidden_size {} is no multiple of model.num_heads {}: give model.head_dim",
              out.hidden_size, out.num_heads);
  out.num_kv_heads = pick(m.num_kv_heads, out.num_heads);
  out.head_dim = pick(m.head_dim, out.hidden_size / out.num_heads);
  out.intermediate_size = pick(m.intermediate_size, paper_intermediate_size(out.hidden_size));
  out.max_position_embeddings = pick(m.max_position_embeddings, config.train.sequence_length);
  QUEST_CHECK(out.max_position_embeddings >= config.train.sequence_length, ErrorKind::kUsage,
              "train.sequence_length {} is more than model.max_position_embeddings {}",
              config.train.sequence_length, out.max_position_embeddings);
  out.rms_norm_eps = m.rms_norm_eps;
  out.rope_theta = m.rope_theta;
  out.rope_scaling.type = m.rope_scaling;
  if (m.rope_scaling != "none") {
    out.rope_scaling.factor = m.rope_scaling_factor;
    out.rope_scaling.low_frequency_factor = m.rope_low_frequency_factor;
    out.rope_scaling.high_frequency_factor = m.rope_high_frequency_factor;
    out.rope_scaling.original_max_position =
        pick(m.rope_original_max_position, out.max_position_embeddings);
  }
  out.tie_word_embeddings = m.tie_word_embeddings;
  validate(out);
  validate(out, config.quant);
  return out;
}

struct ConfigFlags::Flag {
  std::string text;
  CLI::Option* option = nullptr;
};

ConfigFlags::ConfigFlags(CLI::App& app) {
  TrainConfig defaults;
  for (const Setting& s : list_settings(defaults)) {
    auto flag = std::make_shared<Flag>();
    const bool taken = s.flags.empty() || app.get_option_no_throw(s.flags) != nullptr;
    const std::string names = taken ? "--" + s.key : s.flags + ",--" + s.key;
    const std::string range = s.range.empty() ? "" : "; " + s.range;
    flag->option = app.add_option(
        names, flag->text, fmt::format("{} (default {}{})", s.help, toml_text(s.get()), range));
    flag->option->group("[" + std::string(section_of(s.key)) + "]")->type_name("")->take_last();
    flags_.push_back(std::move(flag));
  }
}

void ConfigFlags::apply(TrainConfig& config) const {
  const std::vector<Setting> settings = list_settings(config);
  std::vector<std::pair<std::string_view, TomlValue>> given;
  std::vector<const Setting*> chosen;
  for (size_t i = 0; i < flags_.size(); ++i) {  // in the order of list_settings, as they were made
    if (flags_[i]->option->count() == 0) continue;
    chosen.push_back(&settings[i]);
    given.emplace_back(settings[i].key, read_value(settings[i], flags_[i]->text));
  }
  check_one_length(given);
  for (size_t i = 0; i < chosen.size(); ++i) chosen[i]->set(given[i].second);
}

}  // namespace quest::train
