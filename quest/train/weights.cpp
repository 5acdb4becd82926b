#include "quest/train/weights.h"

#include <map>
#include <memory>
#include <set>

#include <ATen/core/grad_mode.h>

#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/ops/tensor_file.h"

namespace quest::train {

namespace fs = std::filesystem;
namespace {

// Every tensor of a folder's one or many safetensors files.
struct FolderTensors {
  std::vector<std::unique_ptr<SafetensorsReader>> files;
  std::map<std::string, const TensorView*> tensors;
};

void add_file(FolderTensors& all, const fs::path& path) {
  all.files.push_back(std::make_unique<SafetensorsReader>(path));
  for (const TensorView& tensor : all.files.back()->tensors()) {
    QUEST_CHECK(all.tensors.emplace(tensor.name, &tensor).second, ErrorKind::kData,
                "{}: tensor {} is also in another file of this folder", path.string(), tensor.name);
  }
}

FolderTensors open_folder(const fs::path& folder) {
  FolderTensors all;
  const fs::path single = folder / "model.safetensors";
  const fs::path index_path = folder / "model.safetensors.index.json";
  if (fs::exists(single)) {
    add_file(all, single);
    return all;
  }
  QUEST_CHECK(fs::exists(index_path), ErrorKind::kIo,
              "{} holds neither model.safetensors nor model.safetensors.index.json",
              folder.string());
  const Json index = read_json(index_path);
  QUEST_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
              ErrorKind::kData, "{}: no object 'weight_map'", index_path.string());
  std::set<std::string> names;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    QUEST_CHECK(file.is_string(), ErrorKind::kData, "{}: the file of {} is no string",
                index_path.string(), tensor);
    names.insert(file.get<std::string>());
  }
  for (const std::string& name : names) {
    QUEST_CHECK(fs::path(name).filename() == name && name.ends_with(".safetensors"),
                ErrorKind::kData, "{}: '{}' is no name of a safetensors file in this folder",
                index_path.string(), name);
    add_file(all, folder / name);
  }
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    QUEST_CHECK(all.tensors.contains(tensor), ErrorKind::kData, "{}: {} lacks tensor {}",
                index_path.string(), file.get<std::string>(), tensor);
  }
  return all;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

bool is_ignored(const std::string& name, const nn::LlamaModel& model) {
  return name.ends_with("rotary_emb.inv_freq") ||
         (name == "lm_head.weight" && model.config().tie_word_embeddings);
}

std::string first_few(const std::vector<std::string>& names) {
  std::string out;
  for (size_t k = 0; k < names.size() && k < 5; ++k) out += (k ? ", " : "") + names[k];
  if (names.size() > 5) out += fmt::format(" and {} more", names.size() - 5);
  return out;
}

}  // namespace

void copy_tensor(const TensorView& from, const at::Tensor& to, const std::string& where) {
  const std::vector<int64_t> shape = to.sizes().vec();
  QUEST_CHECK(from.shape == shape, ErrorKind::kData, "{}: {} has shape {}, expected is {}", where,
              from.name, shape_text(from.shape), shape_text(shape));
  QUEST_CHECK(from.dtype == DType::kF32 || from.dtype == DType::kF64 || from.dtype == DType::kF16 ||
                  from.dtype == DType::kBF16,
              ErrorKind::kData, "{}: {} is {}, a float type is expected", where, from.name,
              dtype_name(from.dtype));
  const at::NoGradGuard no_grad;
  at::Tensor(to).copy_(ops::to_tensor(from));
}

void add_tensor(SafetensorsWriter& writer, const std::string& name, const at::Tensor& tensor) {
  QUEST_ASSERT(tensor.is_contiguous(), "a tensor to be written must be contiguous");
  writer.add(name, ops::dtype_of(tensor.scalar_type()), tensor.sizes().vec(),
             {static_cast<const std::byte*>(tensor.const_data_ptr()),
              static_cast<size_t>(tensor.nbytes())});
}

void load_weights(nn::LlamaModel& model, const fs::path& folder) {
  const FolderTensors all = open_folder(folder);
  const std::vector<nn::HfTensor> wanted = model.hf_tensors();
  std::vector<std::string> missing, unknown;
  std::set<std::string> names;
  for (const nn::HfTensor& t : wanted) {
    names.insert(t.name);
    const auto found = all.tensors.find(t.name);
    if (found == all.tensors.end()) {
      missing.push_back(t.name);
      continue;
    }
    QUEST_CHECK(found->second->shape == t.view.sizes().vec(), ErrorKind::kData,
                "{}: {} has shape {}, config.json says {}", folder.string(), t.name,
                shape_text(found->second->shape), shape_text(t.view.sizes().vec()));
  }
  for (const auto& [name, view] : all.tensors) {
    if (!names.contains(name) && !is_ignored(name, model)) unknown.push_back(name);
  }
  QUEST_CHECK(missing.empty() && unknown.empty(), ErrorKind::kData,
              "{}: these weights do not fit the model of config.json; missing: {}; unknown: {}",
              folder.string(), missing.empty() ? "none" : first_few(missing),
              unknown.empty() ? "none" : first_few(unknown));
  for (const nn::HfTensor& t : wanted) {
    copy_tensor(*all.tensors.at(t.name), t.view, folder.string());
  }
}

void save_weights(const nn::LlamaModel& model, const fs::path& file, DType dtype) {
  const at::NoGradGuard no_grad;
  SafetensorsWriter writer(file);
  writer.set_metadata("format", "pt");  // Hugging Face's loaders want to see it
  std::vector<at::Tensor> rounded;      // live until finish()
  for (const nn::HfTensor& t : model.hf_tensors()) {
    rounded.push_back(dtype == DType::kBF16 ? t.view.detach().to(at::kBFloat16)
                                            : t.view.detach().contiguous());
    add_tensor(writer, t.name, rounded.back());
  }
  writer.finish();
}

}  // namespace quest::train
