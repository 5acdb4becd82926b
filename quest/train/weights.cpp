#include "quest/train/weights.h"

#include <ATen/core/grad_mode.h>

#include "quest/base/error.h"
#include "quest/model/checkpoint_files.h"
#include "quest/ops/tensor_file.h"

namespace quest::train {

namespace fs = std::filesystem;
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

void check_fits(const TensorView& from, const at::Tensor& to, const std::string& where) {
  const std::vector<int64_t> shape = to.sizes().vec();
  QUEST_CHECK(from.shape == shape, ErrorKind::kData, "{}: {} has shape {}, expected is {}", where,
              from.name, shape_text(from.shape), shape_text(shape));
  QUEST_CHECK(from.dtype == DType::kF32 || from.dtype == DType::kF64 || from.dtype == DType::kF16 ||
                  from.dtype == DType::kBF16,
              ErrorKind::kData, "{}: {} is {}, a float type is expected", where, from.name,
              dtype_name(from.dtype));
}

}  // namespace

void copy_tensor(const TensorView& from, const at::Tensor& to, const std::string& where) {
  check_fits(from, to, where);
  const at::NoGradGuard no_grad;
  at::Tensor(to).copy_(ops::to_tensor(from));
}

void add_tensor(SafetensorsWriter& writer, const std::string& name, const at::Tensor& tensor) {
  QUEST_ASSERT(tensor.is_cpu() && tensor.is_contiguous(),
               "a tensor to be written must be contiguous");
  writer.add(name, ops::dtype_of(tensor.scalar_type()), tensor.sizes().vec(),
             {static_cast<const std::byte*>(tensor.const_data_ptr()),
              static_cast<size_t>(tensor.nbytes())});
}

bool shares_learned(const nn::LlamaModel& model, const fs::path& folder) {
  const fs::path config_json = folder / "config.json";
  // Where a folder has no recipe of its own (plain weights in a test), its tensors decide.
  if (!fs::exists(config_json)) return true;
  QuantRecipe theirs;
  load_llama_config(config_json, &theirs);
  return theirs.weight == model.recipe().weight && theirs.activation == model.recipe().activation;
}

void load_weights(nn::LlamaModel& model, const fs::path& folder) {
  const CheckpointFiles files(folder);
  check_llama_tensors(files, model.config());
  const bool takes_learned = shares_learned(model, folder);
  std::vector<nn::HfTensor> wanted = model.hf_tensors();
  std::erase_if(
      wanted, [&](const nn::HfTensor& t) { return is_quantizer_tensor(t.name) && !takes_learned; });
  for (const nn::HfTensor& t : wanted) check_fits(files.tensor(t.name), t.view, folder.string());
  for (const nn::HfTensor& t : wanted) copy_tensor(files.tensor(t.name), t.view, folder.string());
}

void save_weights(const nn::LlamaModel& model, const fs::path& file, DType dtype) {
  const at::NoGradGuard no_grad;
  SafetensorsWriter writer(file);
  writer.set_metadata("format", "pt");  // Hugging Face's loaders want to see it
  std::vector<at::Tensor> rounded;      // live until finish()
  for (const nn::HfTensor& t : model.hf_tensors()) {
    rounded.push_back(
        (dtype == DType::kBF16 ? t.view.detach().to(at::kBFloat16) : t.view.detach().contiguous())
            .cpu());
    add_tensor(writer, t.name, rounded.back());
  }
  writer.finish();
}

}  // namespace quest::train
