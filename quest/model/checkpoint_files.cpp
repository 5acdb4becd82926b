#include "quest/model/checkpoint_files.h"

#include <set>

#include "quest/base/checksum.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/thread_pool.h"

namespace quest {

namespace fs = std::filesystem;
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

std::string first_few(const std::vector<std::string>& names) {
  if (names.empty()) return "none";
  std::string out;
  for (size_t k = 0; k < names.size() && k < 5; ++k) out += (k ? ", " : "") + names[k];
  if (names.size() > 5) out += fmt::format(" and {} more", names.size() - 5);
  return out;
}

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

// The shards that model.safetensors.index.json names, by tensor.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const Json index = read_json(path);
  QUEST_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
              ErrorKind::kData, "{}: no object 'weight_map'", path.string());
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    QUEST_CHECK(file.is_string(), ErrorKind::kData, "{}: the file of {} is no string",
                path.string(), tensor);
    const auto name = file.get<std::string>();
    QUEST_CHECK(fs::path(name).filename() == name && name.ends_with(".safetensors"),
                ErrorKind::kData, "{}: '{}' is no name of a safetensors file in this folder",
                path.string(), name);
    shards[tensor] = name;
  }
  return shards;
}

}  // namespace

fs::path find_model_folder(const fs::path& folder) {
  QUEST_CHECK(fs::exists(folder), ErrorKind::kIo, "{}: no such folder", folder.string());
  for (const char* place : {"", "final", "checkpoints/best", "checkpoints/latest"}) {
    const fs::path candidate = *place == '\0' ? folder : folder / place;
    if (fs::exists(candidate / "config.json")) {
      return candidate;
    }
  }
  QUEST_THROW(ErrorKind::kIo,
              "{}: no model here: neither config.json, nor final/, checkpoints/best/ or "
              "checkpoints/latest/ of a run",
              folder.string());
}

CheckpointFiles::CheckpointFiles(const fs::path& folder) : folder_(folder) {
  const fs::path single = folder / "model.safetensors";
  const fs::path index = folder / "model.safetensors.index.json";
  if (fs::exists(single)) {
    add_file(single);
    return;
  }
  QUEST_CHECK(fs::exists(index), ErrorKind::kIo,
              "{} holds neither model.safetensors nor model.safetensors.index.json",
              folder.string());
  const std::map<std::string, std::string> shards = read_index(index);
  std::set<std::string> names;
  for (const auto& [tensor, file] : shards) names.insert(file);
  for (const std::string& name : names) add_file(folder / name);
  for (const auto& [tensor, file] : shards) {
    QUEST_CHECK(tensors_.contains(tensor), ErrorKind::kData, "{}: {} lacks tensor {}",
                index.string(), file, tensor);
  }
}

void CheckpointFiles::add_file(const fs::path& path) {
  files_.push_back(std::make_unique<SafetensorsReader>(path));
  for (const TensorView& tensor : files_.back()->tensors()) {
    QUEST_CHECK(tensors_.emplace(tensor.name, &tensor).second, ErrorKind::kData,
                "{}: tensor {} is also in another file of this folder", path.string(), tensor.name);
  }
}

const TensorView& CheckpointFiles::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  QUEST_CHECK(found != tensors_.end(), ErrorKind::kData, "{}: there is no tensor {}",
              folder_.string(), name);
  return *found->second;
}

std::string CheckpointFiles::hash() const {
  ThreadPool pool;
  PiecewiseChecksum sum;
  for (const auto& file : files_) {
    sum.update(file->file_bytes(), &pool);
    sum.end_piece();
  }
  return sum.hex();
}

std::vector<NamedShape> llama_tensors(const LlamaConfig& config) {
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  std::vector<NamedShape> out{{"model.embed_tokens.weight", {config.vocab_size, c}}};
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const auto add = [&](const char* name, std::vector<int64_t> shape) {
      out.push_back({fmt::format("model.layers.{}.{}.weight", i, name), std::move(shape)});
    };
    add("input_layernorm", {c});
    add("self_attn.q_proj", {config.q_size(), c});
    add("self_attn.k_proj", {config.kv_size(), c});
    add("self_attn.v_proj", {config.kv_size(), c});
    add("self_attn.o_proj", {c, config.q_size()});
    add("post_attention_layernorm", {c});
    add("mlp.gate_proj", {f, c});
    add("mlp.up_proj", {f, c});
    add("mlp.down_proj", {c, f});
  }
  out.push_back({"model.norm.weight", {c}});
  if (!config.tie_word_embeddings) out.push_back({"lm_head.weight", {config.vocab_size, c}});
  return out;
}

bool is_quantizer_tensor(std::string_view name) {
  return name.find(".weight_quantizer.") != std::string_view::npos ||
         name.find(".input_quantizer.") != std::string_view::npos;
}

void check_llama_tensors(const CheckpointFiles& files, const LlamaConfig& config) {
  const std::string where = files.folder().string();
  // Before the list is made: a config.json may ask for billions of blocks.
  QUEST_CHECK(config.num_layers <= static_cast<int64_t>(files.tensors().size()), ErrorKind::kData,
              "{}: config.json asks for {} blocks, the files hold {} tensors", where,
              config.num_layers, files.tensors().size());
  std::vector<std::string> missing, unknown;
  std::set<std::string> names;
  for (const NamedShape& wanted : llama_tensors(config)) {
    names.insert(wanted.name);
    const auto found = files.tensors().find(wanted.name);
    if (found == files.tensors().end()) {
      missing.push_back(wanted.name);
      continue;
    }
    const TensorView& tensor = *found->second;
    QUEST_CHECK(tensor.shape == wanted.shape, ErrorKind::kData,
                "{}: {} has shape {}, config.json says {}", where, wanted.name,
                shape_text(tensor.shape), shape_text(wanted.shape));
    QUEST_CHECK(is_float(tensor.dtype), ErrorKind::kData, "{}: {} is {}, a float type is expected",
                where, wanted.name, dtype_name(tensor.dtype));
  }
  for (const auto& [name, view] : files.tensors()) {
    const bool ignored = name.ends_with("rotary_emb.inv_freq") || is_quantizer_tensor(name) ||
                         (name == "lm_head.weight" && config.tie_word_embeddings);
    if (!names.contains(name) && !ignored) unknown.push_back(name);
  }
  QUEST_CHECK(missing.empty() && unknown.empty(), ErrorKind::kData,
              "{}: these weights do not fit the model of config.json; missing: {}; unknown: {}",
              where, first_few(missing), first_few(unknown));
}

}  // namespace quest
