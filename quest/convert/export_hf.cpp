#include <cmath>
#include <deque>

#include <nlohmann/json.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/convert/checkpoint_layers.h"
#include "quest/convert/export_packed.h"
#include "quest/convert/hf_tokenizer.h"
#include "quest/convert/replaceable.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/text/tokenizer.h"

namespace quest::convert {
namespace {

double relative(double error, double norm) { return norm > 0 ? std::sqrt(error / norm) : 0; }

std::vector<bfloat16> rounded(const std::vector<float>& values) {
  std::vector<bfloat16> out(values.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = bfloat16(values[i]);
  return out;
}

TensorError error_of(const std::string& name, std::span<const bfloat16> stored,
                     std::span<const float> exact, std::span<const float> master) {
  double rounding = 0, total = 0, exact_norm = 0, master_norm = 0;
  for (size_t i = 0; i < stored.size(); ++i) {
    const auto s = static_cast<double>(static_cast<float>(stored[i]));
    const auto e = static_cast<double>(exact[i]), m = static_cast<double>(master[i]);
    rounding += (s - e) * (s - e);
    total += (s - m) * (s - m);
    exact_norm += e * e;
    master_norm += m * m;
  }
  return {name, relative(rounding, exact_norm), relative(total, master_norm)};
}

// The quantized weight as numbers in the original basis, in float.
std::vector<float> dequantized(const QuantSpec& spec, const QuantizedLayer& layer,
                               const std::vector<float>& master, ThreadPool& pool) {
  if (!spec.is_quantized()) return master;
  std::vector<float> out(master.size());
  pool.parallel_for((layer.n + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t i) {
    const int64_t first = i * kRowsAtOnce, rows = std::min(kRowsAtOnce, layer.n - first);
    float* x = out.data() + first * layer.k;
    kernels::dequantize_rows(spec, layer.codes.data() + first * layer.k, layer.units.data() + first,
                             rows, layer.k, x);
    if (spec.hadamard) kernels::hadamard_rows(x, rows, layer.k, x);  // its own inverse
  });
  return out;
}

// The file that is being collected: the writer keeps views, so the values live here.
struct Collected {
  SafetensorsWriter writer;
  std::deque<std::vector<bfloat16>> values;

  void add(const std::string& name, std::vector<int64_t> shape, std::vector<bfloat16> tensor) {
    values.push_back(std::move(tensor));
    writer.add<bfloat16>(name, std::move(shape), values.back());
  }
};

// One layer of a block as its Hugging Face parts, with their errors.
void add_layer(Collected& out, std::vector<TensorError>& errors, const CheckpointLayers& checkpoint,
               int64_t block, size_t j, ThreadPool& pool) {
  const std::vector<float> master = checkpoint.master(block, j);
  const QuantizedLayer layer = checkpoint.quantize(block, j, pool);
  const std::vector<float> exact = dequantized(checkpoint.recipe().weight, layer, master, pool);
  size_t begin = 0;
  for (const std::string& part : parts_of_layer(block, j)) {
    const TensorView& tensor = checkpoint.files().tensor(part + ".weight");
    const auto count = static_cast<size_t>(tensor.numel());
    const std::span<const float> values = std::span(exact).subspan(begin, count);
    std::vector<bfloat16> stored(count);
    for (size_t i = 0; i < count; ++i) stored[i] = bfloat16(values[i]);
    errors.push_back(
        error_of(part + ".weight", stored, values, std::span(master).subspan(begin, count)));
    out.add(part + ".weight", tensor.shape, std::move(stored));
    begin += count;
  }
}

}  // namespace

ExportReport export_hf(const std::filesystem::path& model, const std::filesystem::path& out) {
  const std::filesystem::path source = find_model_folder(model);
  check_replaceable(out, FolderKind::kHf);
  const CheckpointLayers checkpoint(source);
  const LlamaConfig& config = checkpoint.config();
  QUEST_CHECK(checkpoint.recipe().weight.registered == nullptr, ErrorKind::kUsage,
              "{} quantizes weights with {}, which can be trained and judged, not exported",
              source.string(), to_string(checkpoint.recipe().weight));
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(source);
  AtomicFolder folder(out);
  ThreadPool pool;
  ExportReport report{.source = source, .recipe = checkpoint.recipe(), .errors = {}};
  Collected collected{SafetensorsWriter(folder.path() / "model.safetensors"), {}};
  collected.writer.set_metadata("format", "pt");
  for (const NamedShape& tensor : llama_tensors(config)) {
    const bool is_norm = tensor.shape.size() == 1;
    const bool is_table = !tensor.name.starts_with("model.layers.");
    if (!is_norm && !is_table) continue;
    const std::vector<float> values = checkpoint.values(tensor.name);
    std::vector<bfloat16> stored = rounded(values);
    const double error = error_of(tensor.name, stored, values, values).of_master;
    if (tensor.name == "model.embed_tokens.weight") report.embedding_error = error;
    if (tensor.name == "lm_head.weight") report.head_error = error;
    collected.add(tensor.name, tensor.shape, std::move(stored));
  }
  if (config.tie_word_embeddings) report.head_error = report.embedding_error;
  ProgressBar bar("dequantizing", config.num_layers, "blocks");
  for (int64_t i = 0; i < config.num_layers; ++i) {
    for (size_t j = 0; j < 4; ++j) add_layer(collected, report.errors, checkpoint, i, j, pool);
    bar.update(i + 1);
    stop_if_asked();
  }
  bar.finish();
  collected.writer.finish();
  write_file_atomically(folder.path() / "config.json",
                        llama_config_json(config, recipe_from_name("bf16"), "bfloat16"));
  const nlohmann::ordered_json mark = {{"recipe", checkpoint.recipe().name},
                                       {"weight", to_string(checkpoint.recipe().weight)},
                                       {"activation", to_string(checkpoint.recipe().activation)},
                                       {"source_hash", checkpoint.files().hash()}};
  write_file_atomically(folder.path() / kHfMarkName, mark.dump(2) + "\n");
  report.warning = save_hf_tokenizer(*tokenizer, folder.path());
  folder.publish();
  return report;
}

}  // namespace quest::convert
