// The weights of a model to and from safetensors with Hugging Face names.
//
//   LlamaConfig config = load_llama_config(folder / "config.json", &recipe);
//   nn::LlamaModel model(config, recipe, compute);
//   load_weights(model, folder);       // ours or any Hugging Face Llama
#pragma once

#include <filesystem>
#include <string>

#include "quest/base/safetensors.h"
#include "quest/nn/llama_model.h"

namespace quest::train {

// Reads model.safetensors, or the shards that model.safetensors.index.json names, in F32, F64, F16
// or BF16. Tensors that are missing, of a wrong shape or unknown are named in a kData error and the
// model keeps the weights it had. Tied models may bring a lm_head.weight, which is not read; rotary
// tables (rotary_emb.inv_freq) are computed, not read. What registered quantizers learn is taken
// over if the folder's recipe is the model's (shares_learned); otherwise it stays without values
// (nn::LlamaModel::begin_quantizers).
void load_weights(nn::LlamaModel& model, const std::filesystem::path& folder);

// Whether what registered quantizers have learned in the folder is meant for this model: one recipe
// in its config.json and in the model, or no config.json.
bool shares_learned(const nn::LlamaModel& model, const std::filesystem::path& folder);

// Writes model.safetensors. dtype: kF32 (kF64 for a model in FP64) or kBF16. Throws kIo.
void save_weights(const nn::LlamaModel& model, const std::filesystem::path& file, DType dtype);

// Copies the values of a file's tensor into one of equal shape; any float type. Throws kData naming
// `where` and the tensor.
void copy_tensor(const TensorView& from, const at::Tensor& to, const std::string& where);
// A tensor to be written; the bytes must live until the writer's finish().
void add_tensor(SafetensorsWriter& writer, const std::string& name, const at::Tensor& tensor);

}  // namespace quest::train
