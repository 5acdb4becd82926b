#include "quest/model/llama_config.h"

#include <cmath>
#include <utility>

#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/quant/hadamard.h"

namespace quest {
namespace {

constexpr int64_t kLargestSize = int64_t{1} << 31;

void check_positive(std::string_view field, int64_t value) {
  QUEST_CHECK(value > 0 && value < kLargestSize, ErrorKind::kUsage,
              "[model] {} is {}, must be between 1 and {}", field, value, kLargestSize - 1);
}

// One side of one product with K input features.
void check_product(const QuantSpec& spec, std::string_view layer, std::string_view side,
                   int64_t k) {
  if (spec.hadamard) {
    try {
      hadamard_block_size(k);
    } catch (const Error& error) {
      QUEST_THROW(ErrorKind::kUsage, "[model] {} has K={} input features: {}", layer, k,
                  error.what());
    }
  }
  const bool pairs = spec.grid == Grid::kUniform4of8 || spec.grid == Grid::kMask4of8;
  QUEST_CHECK(
      !pairs || k % 8 == 0, ErrorKind::kUsage,
      "[model] {} has K={} input features, but 4:8 sparsity of the {} needs a multiple of 8", layer,
      k, side);
}

Json spec_json(const QuantSpec& spec) { return to_string(spec); }

RopeScaling read_rope_scaling(const Json& config, const std::string& where) {
  RopeScaling scaling;
  const auto it = config.find("rope_scaling");
  if (it == config.end() || it->is_null()) {
    return scaling;
  }
  QUEST_CHECK(it->is_object(), ErrorKind::kData, "{}: rope_scaling must be an object", where);
  scaling.type = json_get_or<std::string>(
      *it, "rope_type", json_get_or<std::string>(*it, "type", "none", where), where);
  if (scaling.type == "default") {
    scaling.type = "none";
  }
  QUEST_CHECK(scaling.type == "none" || scaling.type == "linear" || scaling.type == "dynamic" ||
                  scaling.type == "llama3",
              ErrorKind::kData,
              "{}: rope_scaling type '{}' is not supported; supported are none, linear, dynamic, "
              "llama3",
              where, scaling.type);
  if (scaling.type == "none") {
    return scaling;
  }
  scaling.factor = json_get<double>(*it, "factor", where);
  if (scaling.type == "llama3") {
    scaling.low_frequency_factor = json_get<double>(*it, "low_freq_factor", where);
    scaling.high_frequency_factor = json_get<double>(*it, "high_freq_factor", where);
    scaling.original_max_position =
        json_get<int64_t>(*it, "original_max_position_embeddings", where);
  }
  return scaling;
}

Json rope_scaling_json(const RopeScaling& scaling) {
  if (scaling.type == "none") {
    return nullptr;
  }
  Json json = {{"rope_type", scaling.type}, {"factor", scaling.factor}};
  if (scaling.type == "llama3") {
    json["low_freq_factor"] = scaling.low_frequency_factor;
    json["high_freq_factor"] = scaling.high_frequency_factor;
    json["original_max_position_embeddings"] = scaling.original_max_position;
  }
  return json;
}

// A token id, or the first of a list of them (Hugging Face allows both), or -1.
int64_t read_token_id(const Json& config, std::string_view key, const std::string& where) {
  const auto it = config.find(key);
  if (it != config.end() && it->is_array() && !it->empty() && it->front().is_number_integer()) {
    return it->front().get<int64_t>();
  }
  return json_get_or<int64_t>(config, key, -1, where);
}

QuantRecipe read_recipe(const Json& config, const std::string& where) {
  const auto it = config.find("quantization_config");
  if (it == config.end() || it->is_null()) {
    return recipe_from_name("bf16");
  }
  QUEST_CHECK(it->is_object(), ErrorKind::kData, "{}: quantization_config must be an object",
              where);
  const char* key = it->contains("quant_method") ? "quant_method" : "format";
  const auto method = json_get<std::string>(*it, key, where);
  QUEST_CHECK(method == "quest", ErrorKind::kData,
              "{}: quantization_config.{} is '{}'; only models trained by quest (\"quest\") or "
              "unquantized ones can be loaded",
              where, key, method);
  QuantRecipe recipe;
  try {
    recipe.name = json_get<std::string>(*it, "recipe", where);
    recipe.weight = spec_from_string(json_get<std::string>(*it, "weight", where));
    recipe.activation = spec_from_string(json_get<std::string>(*it, "activation", where));
    validate(recipe);
  } catch (const Error& error) {
    QUEST_THROW(ErrorKind::kData, "{}: quantization_config: {}", where, error.what());
  }
  return recipe;
}

std::optional<PackedSettings> read_packed(const Json& config, const std::string& where) {
  const auto it = config.find("quantization_config");
  const std::string place = where + ": quantization_config";
  if (it == config.end() || it->is_null() || !json_get_or<bool>(*it, "packed", false, place)) {
    return std::nullopt;
  }
  return PackedSettings{.version = json_get<int64_t>(*it, "packed_version", place),
                        .embedding = json_get<std::string>(*it, "embedding", place),
                        .head = json_get<std::string>(*it, "head", place)};
}

void check_whole_rotation(const Json& rope, const std::string& where) {
  const auto rotated = json_get_or<double>(rope, "partial_rotary_factor", 1.0, where);
  QUEST_CHECK(rotated == 1.0, ErrorKind::kData,
              "{}: partial_rotary_factor is {}; only 1, the rotation of whole heads, is supported",
              where, rotated);
}

void check_supported(const Json& config, const std::string& where) {
  const auto type = json_get_or<std::string>(config, "model_type", "llama", where);
  QUEST_CHECK(type == "llama", ErrorKind::kData, "{}: model_type is '{}'; only llama is supported",
              where, type);
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    QUEST_CHECK(!json_get_or<bool>(config, key, false, where), ErrorKind::kData,
                "{}: {} is true; models with biases are not supported", where, key);
  }
  const auto activation = json_get_or<std::string>(config, "hidden_act", "silu", where);
  QUEST_CHECK(activation == "silu", ErrorKind::kData,
              "{}: hidden_act is '{}'; only silu (SwiGLU) is supported", where, activation);
  // Attention to the whole text only. Some files name a window and say that it is not used.
  const auto window = config.find("sliding_window");
  QUEST_CHECK(window == config.end() || window->is_null() ||
                  !json_get_or<bool>(config, "use_sliding_window", true, where),
              ErrorKind::kData,
              "{}: sliding_window is {}; models with windows of attention are not supported", where,
              window->dump());
  check_whole_rotation(config, where);
  if (const auto rope = config.find("rope_parameters"); rope != config.end() && rope->is_object()) {
    check_whole_rotation(*rope, where + ": rope_parameters");
  }
}

}  // namespace

int64_t LlamaConfig::non_embedding_parameters() const {
  const int64_t attention = hidden_size * (q_size() + 2 * kv_size()) + q_size() * hidden_size;
  const int64_t mlp = 3 * hidden_size * intermediate_size;
  return num_layers * (attention + mlp + 2 * hidden_size) + hidden_size;
}

int64_t LlamaConfig::parameters() const {
  return non_embedding_parameters() + (tie_word_embeddings ? 1 : 2) * vocab_size * hidden_size;
}

double LlamaConfig::training_flops_per_token(int64_t sequence_length) const {
  const double norms = static_cast<double>((2 * num_layers + 1) * hidden_size);
  const double matrices = static_cast<double>(non_embedding_parameters()) - norms +
                          static_cast<double>(vocab_size * hidden_size);
  const double attention = 12.0 * static_cast<double>(num_layers * q_size()) *
                           static_cast<double>(sequence_length) / 2.0;
  return 6.0 * matrices + attention;
}

int64_t paper_intermediate_size(int64_t hidden_size) {
  // 256 * ceil((8/3 C) / 256) in integers: ceil(8 C / 768).
  return 256 * ((8 * hidden_size + 767) / 768);
}

void validate(const LlamaConfig& config) {
  check_positive("vocab_size", config.vocab_size);
  check_positive("hidden_size", config.hidden_size);
  check_positive("intermediate_size", config.intermediate_size);
  check_positive("num_layers", config.num_layers);
  check_positive("num_heads", config.num_heads);
  check_positive("num_kv_heads", config.num_kv_heads);
  check_positive("head_dim", config.head_dim);
  check_positive("max_position_embeddings", config.max_position_embeddings);
  QUEST_CHECK(config.head_dim % 2 == 0, ErrorKind::kUsage,
              "[model] head_dim is {}, must be even (rotary pairs)", config.head_dim);
  QUEST_CHECK(config.num_heads % config.num_kv_heads == 0, ErrorKind::kUsage,
              "[model] num_kv_heads is {}, must divide num_heads ({})", config.num_kv_heads,
              config.num_heads);
  QUEST_CHECK(config.rms_norm_eps > 0 && std::isfinite(config.rms_norm_eps), ErrorKind::kUsage,
              "[model] rms_norm_eps is {}, must be positive", config.rms_norm_eps);
  QUEST_CHECK(config.rope_theta >= 1 && std::isfinite(config.rope_theta), ErrorKind::kUsage,
              "[model] rope_theta is {}, must be at least 1", config.rope_theta);
  const RopeScaling& scaling = config.rope_scaling;
  QUEST_CHECK(scaling.type == "none" || scaling.type == "linear" || scaling.type == "dynamic" ||
                  scaling.type == "llama3",
              ErrorKind::kUsage,
              "[model] rope_scaling is '{}'; supported are none, linear, dynamic, llama3",
              scaling.type);
  QUEST_CHECK(scaling.factor >= 1.0 && std::isfinite(scaling.factor), ErrorKind::kUsage,
              "[model] the factor of rope_scaling is {}, must be at least 1", scaling.factor);
  QUEST_CHECK(scaling.type != "llama3" ||
                  (scaling.original_max_position > 0 && scaling.low_frequency_factor > 0 &&
                   scaling.high_frequency_factor > scaling.low_frequency_factor),
              ErrorKind::kUsage,
              "[model] rope_scaling llama3 needs original_max_position > 0 and "
              "0 < low_frequency_factor < high_frequency_factor; they are {}, {}, {}",
              scaling.original_max_position, scaling.low_frequency_factor,
              scaling.high_frequency_factor);
}

void validate(const LlamaConfig& config, const QuantRecipe& recipe) {
  validate(config);
  validate(recipe);
  const struct {
    const char* layer;
    int64_t k;
  } products[] = {{"the qkv projection", config.hidden_size},
                  {"the attention output projection", config.q_size()},
                  {"the MLP gate and up projection", config.hidden_size},
                  {"the MLP down projection", config.intermediate_size}};
  for (const auto& product : products) {
    check_product(recipe.weight, product.layer, "weights", product.k);
    check_product(recipe.activation, product.layer, "activations", product.k);
  }
}

int64_t extend_context(LlamaConfig& config, const std::string& type, double factor) {
  QUEST_CHECK(type == "linear" || type == "dynamic" || type == "llama3", ErrorKind::kUsage,
              "rope scaling is of type '{}'; supported are linear, dynamic, llama3", type);
  QUEST_CHECK(factor >= 1 && factor <= 1e6, ErrorKind::kUsage,
              "the factor of rope scaling is {}, must be between 1 and 1e6", factor);
  QUEST_CHECK(config.rope_scaling.type == "none", ErrorKind::kUsage,
              "the model has a rope scaling of its own ({}, factor {}): it can have no other",
              config.rope_scaling.type, config.rope_scaling.factor);
  const int64_t trained = config.max_position_embeddings;
  const auto longer = static_cast<int64_t>(static_cast<double>(trained) * factor);
  LlamaConfig extended = config;
  extended.rope_scaling.type = type;
  extended.rope_scaling.factor = factor;
  if (type == "llama3") extended.rope_scaling.original_max_position = trained;
  // "dynamic" counts from the trained length, which stays; an engine's context may be beyond it.
  if (type != "dynamic") extended.max_position_embeddings = longer;
  validate(extended);
  config = std::move(extended);
  return longer;
}

std::string llama_config_json(const LlamaConfig& config, const QuantRecipe& recipe,
                              const std::string& torch_dtype,
                              const std::optional<PackedSettings>& packed) {
  nlohmann::ordered_json json;
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["vocab_size"] = config.vocab_size;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_layers;
  json["num_attention_heads"] = config.num_heads;
  json["num_key_value_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json["max_position_embeddings"] = config.max_position_embeddings;
  json["rms_norm_eps"] = config.rms_norm_eps;
  json["rope_theta"] = config.rope_theta;
  json["rope_scaling"] = rope_scaling_json(config.rope_scaling);
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  json["hidden_act"] = "silu";
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["attention_dropout"] = 0.0;
  json["initializer_range"] = 0.02;
  json["torch_dtype"] = torch_dtype;
  if (config.bos_token_id >= 0) {
    json["bos_token_id"] = config.bos_token_id;
  }
  if (config.eos_token_id >= 0) {
    json["eos_token_id"] = config.eos_token_id;
  }
  const bool rotated = recipe.weight.hadamard || recipe.activation.hadamard;
  if (recipe.is_quantized() || rotated || packed) {
    json["quantization_config"] = {{"format", "quest"},
                                   {"recipe", recipe.name},
                                   {"weight", spec_json(recipe.weight)},
                                   {"activation", spec_json(recipe.activation)}};
  }
  if (packed) {
    auto& settings = json["quantization_config"];
    settings["packed"] = true;
    settings["packed_version"] = packed->version;
    settings["embedding"] = packed->embedding;
    settings["head"] = packed->head;
  }
  return json.dump(2) + "\n";
}

LlamaConfig load_llama_config(const std::filesystem::path& config_json, QuantRecipe* recipe,
                              std::optional<PackedSettings>* packed) {
  const std::string where = config_json.string();
  const Json json = read_json(config_json);
  QUEST_CHECK(json.is_object(), ErrorKind::kData, "{}: must be a JSON object", where);
  check_supported(json, where);
  LlamaConfig config;
  config.vocab_size = json_get<int64_t>(json, "vocab_size", where);
  config.hidden_size = json_get<int64_t>(json, "hidden_size", where);
  config.intermediate_size = json_get<int64_t>(json, "intermediate_size", where);
  config.num_layers = json_get<int64_t>(json, "num_hidden_layers", where);
  config.num_heads = json_get<int64_t>(json, "num_attention_heads", where);
  config.num_kv_heads = json_get_or<int64_t>(json, "num_key_value_heads", config.num_heads, where);
  QUEST_CHECK(config.num_heads > 0, ErrorKind::kData, "{}: num_attention_heads is {}", where,
              config.num_heads);
  config.head_dim =
      json_get_or<int64_t>(json, "head_dim", config.hidden_size / config.num_heads, where);
  config.max_position_embeddings =
      json_get_or<int64_t>(json, "max_position_embeddings", 2048, where);
  config.rms_norm_eps = json_get_or<double>(json, "rms_norm_eps", 1e-6, where);
  // Newer files keep theta beside the scaling, in rope_parameters.
  const Json* rope = &json;
  if (const auto it = json.find("rope_parameters"); it != json.end() && it->is_object()) {
    rope = &*it;
  }
  config.rope_theta = json_get_or<double>(*rope, "rope_theta", 10000.0, where);
  config.rope_scaling = rope == &json ? read_rope_scaling(json, where)
                                      : read_rope_scaling(Json{{"rope_scaling", *rope}}, where);
  config.tie_word_embeddings = json_get_or<bool>(json, "tie_word_embeddings", false, where);
  config.bos_token_id = read_token_id(json, "bos_token_id", where);
  config.eos_token_id = read_token_id(json, "eos_token_id", where);
  const QuantRecipe found = read_recipe(json, where);
  const std::optional<PackedSettings> settings = read_packed(json, where);
  QUEST_CHECK(packed != nullptr || !settings, ErrorKind::kData,
              "{}: this is a packed model, whose weights are codes: run it with quest-run, or give "
              "the checkpoint that it was exported from",
              where);
  if (packed != nullptr) *packed = settings;
  try {
    validate(config, found);
  } catch (const Error& error) {
    QUEST_THROW(ErrorKind::kData, "{}: {}", where, error.what());
  }
  if (recipe != nullptr) {
    *recipe = found;
  }
  return config;
}

}  // namespace quest
