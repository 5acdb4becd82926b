#include "quest/packed/packed_report.h"

#include <map>

#include "quest/base/error.h"
#include "quest/base/json_util.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

struct Part {
  int64_t bytes = 0, parameters = 0;
};

// "model.layers.3.mlp.down_proj.codes" -> "mlp.down_proj"; what is not of a block: its first name.
std::string part_of(const std::string& tensor) {
  if (tensor.starts_with("padding.")) return "padding";
  const std::string layers = "model.layers.";
  if (!tensor.starts_with(layers)) {
    if (tensor.starts_with("model.embed_tokens")) return "embedding";
    if (tensor.starts_with("lm_head")) return "head";
    return tensor == "header" ? "header" : "norms";
  }
  const size_t begin = tensor.find('.', layers.size()) + 1;
  const std::string name = tensor.substr(begin, tensor.rfind('.') - begin);
  return name.ends_with("layernorm") ? "norms" : name;
}

double bits(int64_t bytes, int64_t parameters) {
  return parameters > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters) : 0;
}

std::string table_text(const PackedTable& table) {
  return fmt::format("{} ({} x {})", table_format_name(table.format), table.rows, table.columns);
}

std::string parts_text(const PackedModel& model) {
  std::map<std::string, Part> parts;
  for (const TensorSize& size : model.sizes()) {
    Part& part = parts[part_of(size.name)];
    part.bytes += size.bytes;
    part.parameters += size.parameters;
  }
  std::string out =
      fmt::format("{:<22} {:>14} {:>14} {:>10}\n", "part", "parameters", "bytes", "bits each");
  for (const char* name : {"embedding", "head", "self_attn.qkv_proj", "self_attn.o_proj",
                           "mlp.gate_up_proj", "mlp.down_proj", "norms", "padding", "header"}) {
    const auto found = parts.find(name);
    if (found == parts.end()) continue;
    const Part& part = found->second;
    const std::string each =
        part.parameters > 0 ? fmt::format("{:.4f}", bits(part.bytes, part.parameters)) : "";
    out += fmt::format("{:<22} {:>14} {:>14} {:>10}\n", name, part.parameters, part.bytes, each);
  }
  return out;
}

}  // namespace

std::string verify_text(const PackedModel& model) {
  const fs::path path = model.folder() / "verify.json";
  if (!fs::exists(path)) return "not yet: quest verify MODEL --against CHECKPOINT";
  try {
    const Json json = read_json(path);
    if (json_get<std::string>(json, "checksum", path.string()) != model.checksum()) {
      return "verify.json is of another file";
    }
    const auto result = json_get<std::string>(json, "result", path.string());
    return result == "passed" || result == "failed"
               ? result
               : fmt::format("verify.json cannot be read: its result is '{}'", result);
  } catch (const Error& error) {
    return fmt::format("verify.json cannot be read: {}", error.what());
  }
}

PackedTotals packed_totals(const PackedModel& model) {
  PackedTotals totals;
  Part blocks;
  for (const TensorSize& size : model.sizes()) {
    totals.parameters += size.parameters;
    totals.model_bytes += size.bytes;
    if (!size.name.starts_with("model.layers.")) continue;
    blocks.bytes += size.bytes;
    blocks.parameters += size.parameters;
  }
  for (const auto& file : fs::recursive_directory_iterator(model.folder())) {
    if (file.is_regular_file()) totals.folder_bytes += static_cast<int64_t>(file.file_size());
  }
  totals.bits_per_parameter = bits(totals.model_bytes, totals.parameters);
  totals.block_bits_per_parameter = bits(blocks.bytes, blocks.parameters);
  return totals;
}

std::string packed_report(const PackedModel& model, bool all_tensors) {
  const LlamaConfig& config = model.config();
  const PackedTotals totals = packed_totals(model);
  std::string out;
  out += fmt::format("{:<14} {}\n", "model", model.folder().string());
  out += fmt::format("{:<14} {} (weights {}, activations {})\n", "recipe", model.recipe().name,
                     to_string(model.recipe().weight), to_string(model.recipe().activation));
  out += fmt::format("{:<14} {} blocks, width {}, {} heads ({} key-value), head size {}, MLP {}\n",
                     "shape", config.num_layers, config.hidden_size, config.num_heads,
                     config.num_kv_heads, config.head_dim, config.intermediate_size);
  out += fmt::format("{:<14} {}\n", "embedding", table_text(model.embedding()));
  out += fmt::format("{:<14} {}\n", "head",
                     config.tie_word_embeddings ? "the embedding" : table_text(model.head()));
  out += fmt::format("{:<14} {}\n", "source", model.source_hash());
  out += fmt::format("{:<14} {}\n", "checksum", model.checksum());
  out += fmt::format("{:<14} {}\n\n", "verified", verify_text(model));
  out += parts_text(model);
  out += fmt::format("{:<22} {:>14} {:>14} {:>10.4f}\n", "model.safetensors", totals.parameters,
                     totals.model_bytes, totals.bits_per_parameter);
  out += fmt::format("{:<22} {:>14} {:>14} {:>10.4f}\n", "whole folder", totals.parameters,
                     totals.folder_bytes, bits(totals.folder_bytes, totals.parameters));
  out += fmt::format("{:<22} {:>40.4f}\n", "blocks alone", totals.block_bits_per_parameter);
  if (!all_tensors) return out;
  out += fmt::format("\n{:<52} {:>14} {:>14}\n", "tensor", "parameters", "bytes");
  for (const TensorSize& size : model.sizes()) {
    out += fmt::format("{:<52} {:>14} {:>14}\n", size.name, size.parameters, size.bytes);
  }
  return out;
}

}  // namespace quest
