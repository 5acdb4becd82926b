#include "quest/train/source_model.h"

#include <filesystem>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/model/checkpoint_files.h"

namespace quest::train {

namespace fs = std::filesystem;
namespace {

// The shape of a folder's model as settings, so that config.toml tells the truth.
void adopt_shape(TrainConfig::Model& out, const LlamaConfig& m) {
  out.preset = "none";
  out.vocab_size = m.vocab_size;
  out.hidden_size = m.hidden_size;
  out.num_layers = m.num_layers;
  out.num_heads = m.num_heads;
  out.num_kv_heads = m.num_kv_heads;
  out.head_dim = m.head_dim;
  out.intermediate_size = m.intermediate_size;
  out.max_position_embeddings = m.max_position_embeddings;
  out.rms_norm_eps = m.rms_norm_eps;
  out.rope_theta = m.rope_theta;
  out.rope_scaling = m.rope_scaling.type;
  out.rope_scaling_factor = m.rope_scaling.factor;
  out.rope_low_frequency_factor = m.rope_scaling.low_frequency_factor;
  out.rope_high_frequency_factor = m.rope_scaling.high_frequency_factor;
  out.rope_original_max_position = m.rope_scaling.original_max_position;
  out.tie_word_embeddings = m.tie_word_embeddings;
}

bool same_sides(const QuantRecipe& a, const QuantRecipe& b) {
  return a.weight == b.weight && a.activation == b.activation;
}

// A name from a file is kept only if it says what the sides are: it names the run's folder.
QuantRecipe with_checked_name(QuantRecipe recipe) {
  try {
    if (same_sides(recipe_from_name(recipe.name), recipe)) return recipe;
  } catch (const Error&) {  // no recipe's name
  }
  recipe.name = "custom";
  return recipe;
}

std::string recipe_text(const QuantRecipe& recipe) {
  if (recipe.name != "custom") return recipe.name;
  return fmt::format("custom ({} x {})", to_string(recipe.weight), to_string(recipe.activation));
}

// Weights alone will do where shape and recipe are given.
bool holds_model(const fs::path& folder) {
  return fs::exists(folder / "config.json") || fs::exists(folder / "model.safetensors") ||
         fs::exists(folder / "model.safetensors.index.json");
}

}  // namespace

std::string resolve_source(const std::string& given) {
  std::error_code ignored;
  if (!fs::is_directory(given, ignored)) return given;
  const bool is_run = !holds_model(given) && fs::is_directory(fs::path(given) / "checkpoints");
  return fs::proximate(fs::canonical(is_run ? find_model_folder(given) : fs::path(given))).string();
}

void adopt_source_model(TrainConfig& config, bool quiet) {
  const std::string& source = config.run.init.empty() ? config.run.parent : config.run.init;
  if (source.empty()) return;
  QUEST_CHECK(fs::is_directory(source), ErrorKind::kIo,
              "{} is no folder: a run, a checkpoint or a Hugging Face Llama folder holds first "
              "weights",
              source);
  const fs::path config_json = fs::path(source) / "config.json";
  const bool quant_given = config.quant_given || config.quant.is_quantized();
  if (config.model.preset == "none" && quant_given && !fs::exists(config_json)) return;

  QuantRecipe recipe;
  adopt_shape(config.model, load_llama_config(config_json, &recipe));
  if (!quiet) log::info("the model's shape is that of {}", source);
  if (same_sides(recipe, config.quant)) return;
  recipe = with_checked_name(recipe);
  if (quant_given) {
    if (quiet) return;
    log::info("quantization is {} as given; that of {} is {}", recipe_text(config.quant), source,
              recipe_text(recipe));
    return;
  }
  config.quant = recipe;
  if (quiet) return;
  log::info("quantization is {}, that of {} (quant.recipe or --quant chooses another)",
            recipe_text(recipe), source);
}

}  // namespace quest::train
