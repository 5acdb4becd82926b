// A folder that holds a Llama under Hugging Face names: where it is, and its tensors.
//
//   const std::filesystem::path folder = find_model_folder("runs/w4a4");
//   const CheckpointFiles files(folder);
//   files.tensor("model.norm.weight")
//
// Thread rules: CheckpointFiles is const after construction; views live as long as it does.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quest/base/safetensors.h"
#include "quest/model/llama_config.h"

namespace quest {

// A folder with config.json is taken as it is; of a run's folder, what it finished with (final),
// else its best, else its newest checkpoint. Throws kIo naming what was looked for.
std::filesystem::path find_model_folder(const std::filesystem::path& folder);

// Every tensor of a folder's model.safetensors, or of the shards that model.safetensors.index.json
// names. Throws kIo if there are neither, kData naming file and tensor.
class CheckpointFiles {
 public:
  explicit CheckpointFiles(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const std::map<std::string, const TensorView*>& tensors() const { return tensors_; }
  const TensorView& tensor(const std::string& name) const;  // throws kData if it is missing
  // PiecewiseChecksum of the files, in the order of their names, each beginning a piece.
  std::string hash() const;

 private:
  void add_file(const std::filesystem::path& path);

  std::filesystem::path folder_;
  std::vector<std::unique_ptr<SafetensorsReader>> files_;
  std::map<std::string, const TensorView*> tensors_;
};

struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;
};
// The tensors of a Llama under Hugging Face names; a tied head is not one of them.
std::vector<NamedShape> llama_tensors(const LlamaConfig& config);
// What a registered quantizer has learned (ops/tensor_quantizer.h), by its name: beside those of a
// Llama.
bool is_quantizer_tensor(std::string_view name);
// Proves that the folder holds them, all in a float type, and no others besides rotary tables, the
// head of a tied model and tensors of quantizers. Throws kData naming what is missing and unknown.
void check_llama_tensors(const CheckpointFiles& files, const LlamaConfig& config);

}  // namespace quest
