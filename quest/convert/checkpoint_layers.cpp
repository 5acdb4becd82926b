#include "quest/convert/checkpoint_layers.h"

#include <array>
#include <atomic>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/kernels/hadamard_quantize.h"

namespace quest::convert {
namespace {

const std::filesystem::path& proven(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "checksums.json")) verify_folder(folder);
  return folder;
}

}  // namespace

std::vector<std::string> parts_of_layer(int64_t block, size_t j) {
  const std::array<std::vector<const char*>, 4> parts = {
      {{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
       {"self_attn.o_proj"},
       {"mlp.gate_proj", "mlp.up_proj"},
       {"mlp.down_proj"}}};
  std::vector<std::string> names;
  for (const char* part : parts.at(j)) {
    names.push_back(fmt::format("model.layers.{}.{}", block, part));
  }
  return names;
}

void row_to_float(const TensorView& tensor, int64_t row, std::span<float> out) {
  const size_t bytes = out.size() * dtype_size(tensor.dtype);
  TensorView view;
  view.name = tensor.name;
  view.dtype = tensor.dtype;
  view.shape = {static_cast<int64_t>(out.size())};
  view.bytes = tensor.bytes.subspan(static_cast<size_t>(row) * bytes, bytes);
  const std::vector<float> values = view.to_float();
  std::copy(values.begin(), values.end(), out.begin());
}

CheckpointLayers::CheckpointLayers(const std::filesystem::path& folder)
    : config_(load_llama_config(folder / "config.json", &recipe_)), files_(proven(folder)) {
  check_llama_tensors(files_, config_);
}

std::vector<float> CheckpointLayers::master(int64_t block, size_t j) const {
  std::vector<float> out;
  for (const std::string& name : parts_of_layer(block, j)) {
    const std::vector<float> part = files_.tensor(name + ".weight").to_float();
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

QuantizedLayer CheckpointLayers::quantize(int64_t block, size_t j, ThreadPool& pool) const {
  const PackedLayer layer = packed_layers(config_).at(j);
  const QuantSpec& spec = recipe_.weight;
  std::vector<float> w = master(block, j);
  QuantizedLayer out{.n = layer.n, .k = layer.k, .codes = {}, .units = {}, .weight = {}};
  const size_t count = w.size();
  if (spec.is_quantized()) {
    out.codes.resize(count);
    out.units.resize(static_cast<size_t>(layer.n));
  } else {
    out.weight.resize(count);
  }
  std::atomic<int64_t> bad_row = -1;
  pool.parallel_for((layer.n + kRowsAtOnce - 1) / kRowsAtOnce, [&](int64_t i) {
    const int64_t first = i * kRowsAtOnce, rows = std::min(kRowsAtOnce, layer.n - first);
    float* x = w.data() + first * layer.k;
    if (spec.is_quantized()) {
      const int64_t bad =
          kernels::hadamard_quantize(spec, x, rows, layer.k, out.codes.data() + first * layer.k,
                                     out.units.data() + first, nullptr);
      if (bad >= 0) bad_row = first + bad;
      return;
    }
    if (spec.hadamard) kernels::hadamard_rows(x, rows, layer.k, x);
    for (int64_t v = first * layer.k; v < (first + rows) * layer.k; ++v) {
      out.weight[static_cast<size_t>(v)] = bfloat16(w[static_cast<size_t>(v)]);
    }
  });
  QUEST_CHECK(bad_row < 0, ErrorKind::kNumeric,
              "{}: row {} of {} holds a value that is not finite: this model cannot be quantized",
              files_.folder().string(), bad_row.load(), packed_layer_name(block, layer));
  return out;
}

}  // namespace quest::convert
