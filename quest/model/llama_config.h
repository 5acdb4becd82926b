// The shape of a Llama model and its config.json (Hugging Face LlamaForCausalLM keys). Torch-free:
// shared by training (nn) and deployment (packed, runtime).
//
// Legend: B batch, T tokens, C model width, H heads, G key-value heads, D head size, F MLP width,
// V vocabulary, L blocks.
//
//   LlamaConfig c = load_llama_config("run/checkpoints/best/config.json", &recipe);
//   c.non_embedding_parameters();
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "quest/quant/quant_spec.h"

namespace quest {

// rope_scaling of config.json: none, "linear", "dynamic" (as linear beyond the trained length),
// "llama3" (frequency-dependent; Llama 3.1).
struct RopeScaling {
  std::string type = "none";
  double factor = 1.0;
  double low_frequency_factor = 1.0;
  double high_frequency_factor = 4.0;
  int64_t original_max_position = 0;

  bool operator==(const RopeScaling&) const = default;
};

struct LlamaConfig {
  int64_t vocab_size = 32000;        // V
  int64_t hidden_size = 640;         // C
  int64_t intermediate_size = 1792;  // F
  int64_t num_layers = 6;            // L
  int64_t num_heads = 5;             // H
  int64_t num_kv_heads = 5;          // G, divides H
  int64_t head_dim = 128;            // D, even; H * D need not equal C
  int64_t max_position_embeddings = 512;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  int64_t bos_token_id = -1;  // -1: none
  int64_t eos_token_id = -1;

  bool operator==(const LlamaConfig&) const = default;

  int64_t q_size() const { return num_heads * head_dim; }
  int64_t kv_size() const { return num_kv_heads * head_dim; }
  int64_t parameters() const;                // all, tied tensors once
  int64_t non_embedding_parameters() const;  // blocks and final norm: the N of the scaling law
  // Floating-point operations of forward and backward for one token at sequence length T:
  // 6 per matrix weight (blocks and head) + 12 L H D T/2 for causal attention.
  double training_flops_per_token(int64_t sequence_length) const;
};

// The paper's MLP width: 256 * ceil((8/3 * C) / 256).
int64_t paper_intermediate_size(int64_t hidden_size);

// Throws kUsage naming the field and its value if a shape is impossible.
void validate(const LlamaConfig& config);
// Throws kUsage naming the layer if the recipe cannot be applied to these shapes (Hadamard block,
// 4:8).
void validate(const LlamaConfig& config, const QuantRecipe& recipe);

// For texts longer than the model was trained for: sets rope_scaling to this type and factor and
// returns the context that it allows, `factor` times max_position_embeddings, rounded down. Types:
// "linear", "dynamic", "llama3" (low and high frequency factors 1 and 4, as Llama 3.1 has them).
// Throws kUsage for another type, a factor outside [1, 1e6] and a model that is scaled already.
int64_t extend_context(LlamaConfig& config, const std::string& type, double factor);

// What the config.json of a packed model (quest/packed/packed_model.h) says besides shape and
// recipe.
struct PackedSettings {
  int64_t version = 1;
  std::string embedding, head;  // "bf16", "int8" or "int4"

  bool operator==(const PackedSettings&) const = default;
};

// config.json text. A quantized recipe and a packed model add `quantization_config` with format
// "quest" and without quant_method: Hugging Face transformers warns about a method that it does not
// know and runs the model unquantized, but refuses a quantization_config that names none.
std::string llama_config_json(const LlamaConfig& config, const QuantRecipe& recipe,
                              const std::string& torch_dtype,
                              const std::optional<PackedSettings>& packed = std::nullopt);
// Reads config.json of ours or of a Hugging Face Llama. Throws kIo / kData naming file and key;
// refuses other architectures, attention biases, other activations. recipe (if not null) gets the
// recipe of quantization_config, or bf16 if there is none. packed (if not null) gets the settings
// of a packed model, or nothing if it is none; a reader that does not ask for them refuses one.
LlamaConfig load_llama_config(const std::filesystem::path& config_json, QuantRecipe* recipe,
                              std::optional<PackedSettings>* packed = nullptr);

}  // namespace quest
