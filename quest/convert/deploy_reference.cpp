#include "quest/convert/deploy_reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "quest/base/error.h"
#include "quest/base/shutdown.h"
#include "quest/kernels/deploy.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/kernels/packed_gemm.h"
#include "quest/kernels/rope.h"
#include "quest/kernels/table_gemm.h"
#include "quest/model/rope_table.h"
#include "quest/packed/table_codes.h"
#include "quest/runtime/aligned_buffer.h"

namespace quest::convert {
namespace {

namespace deploy = kernels::deploy;
constexpr IsaLevel kScalar = IsaLevel::kScalar;

// The numbers of codes (N,K) as integers, or as floats for levels.
template <class T>
std::vector<T> numbers_of(const QuantSpec& spec, const std::vector<int8_t>& codes) {
  const CodeFormat format = code_format(spec);
  std::vector<T> numbers(codes.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    numbers[i] = format.is_integer ? static_cast<T>(format.multiplier * codes[i] + format.offset)
                                   : static_cast<T>(format.levels[static_cast<size_t>(codes[i])]);
  }
  return numbers;
}

// x (rows, C) times a table (V,C), by its scalar definition.
std::vector<float> table_product(const PackedTable& table, const std::vector<float>& x,
                                 int64_t rows) {
  kernels::TableWeight view;
  view.form = table.format == TableFormat::kBf16   ? kernels::TableForm::kBf16
              : table.format == TableFormat::kInt8 ? kernels::TableForm::kInt8
                                                   : kernels::TableForm::kInt4;
  view.rows = table.rows;
  view.columns = table.columns;
  view.weight = table.weight.data();
  view.codes = table.codes.data();
  view.row_units = table.row_units.data();
  view.group_units = table.group_units.data();
  AlignedBuffer<uint8_t> prepared(kernels::table_activation_bytes(view, rows, kScalar));
  kernels::prepare_table_activations(view, x.data(), table.columns, rows, prepared.data(), kScalar);
  std::vector<float> out(static_cast<size_t>(rows * table.rows));
  kernels::table_gemm(view, prepared.data(), rows, 0, rows, 0, table.rows, out.data(), table.rows,
                      kScalar);
  return out;
}

void check_rows(int64_t bad_row, int64_t block, size_t layer) {
  QUEST_CHECK(bad_row < 0, ErrorKind::kNumeric,
              "block {}, layer {}: the activations of token {} are not finite", block, layer,
              bad_row);
}

}  // namespace

DeployReference::DeployReference(const CheckpointLayers& checkpoint, const PackedTable& embedding,
                                 const PackedTable& head)
    : checkpoint_(checkpoint), embedding_(embedding), head_(head) {}

std::span<const float> DeployReference::logits(int64_t t) const {
  const auto v = static_cast<size_t>(checkpoint_.config().vocab_size);
  return std::span(logits_).subspan(static_cast<size_t>(t) * v, v);
}

std::vector<float> DeployReference::normed(const std::string& weight) const {
  const LlamaConfig& c = checkpoint_.config();
  std::vector<float> out(hidden_.size());
  deploy::rms_norm(hidden_.data(), checkpoint_.values(weight).data(), tokens_, c.hidden_size,
                   static_cast<float>(c.rms_norm_eps), out.data(), kScalar);
  return out;
}

DeployReference::Rows DeployReference::normed_rows(const std::string& weight) const {
  if (!checkpoint_.recipe().activation.is_quantized()) return {normed(weight), {}};
  const LlamaConfig& c = checkpoint_.config();
  const auto width = static_cast<size_t>(c.hidden_size);
  const auto& of_norm = checkpoint_.values(weight);
  Rows rows;
  rows.values.resize(hidden_.size());
  for (size_t at = 0; at < hidden_.size(); at += width) {
    rows.factors.push_back(deploy::rms_norm_by_unit(&hidden_[at], of_norm.data(), c.hidden_size,
                                                    static_cast<float>(c.rms_norm_eps),
                                                    &rows.values[at], kScalar));
  }
  return rows;
}

void DeployReference::quantize(int64_t block, size_t layer, const Rows& x, int64_t k,
                               std::vector<int8_t>& codes, std::vector<float>& units) const {
  codes.resize(x.values.size());
  units.resize(static_cast<size_t>(tokens_));
  check_rows(kernels::hadamard_quantize(checkpoint_.recipe().activation, x.values.data(), tokens_,
                                        k, codes.data(), units.data(), nullptr, kScalar),
             block, layer);
  for (size_t i = 0; i < x.factors.size(); ++i) units[i] *= x.factors[i];
}

// acc = sum_k number * number; out = float(acc) * (unit of the row * unit of the column).
std::vector<float> DeployReference::integer_product(int64_t block, size_t layer,
                                                    const QuantizedLayer& weight, const Rows& x) {
  const QuantSpec& activation = checkpoint_.recipe().activation;
  const auto rows = static_cast<size_t>(tokens_), k = static_cast<size_t>(weight.k),
             n = static_cast<size_t>(weight.n);
  std::vector<int8_t> codes;
  std::vector<float> units;
  quantize(block, layer, x, weight.k, codes, units);
  const std::vector<int32_t> a = numbers_of<int32_t>(activation, codes);
  const std::vector<int32_t> w = numbers_of<int32_t>(checkpoint_.recipe().weight, weight.codes);
  std::vector<int32_t> sums(rows * n);
  std::vector<float> out(rows * n);
  pool_.parallel_for(weight.n, [&](int64_t column) {
    const auto j = static_cast<size_t>(column);
    for (size_t i = 0; i < rows; ++i) {
      int32_t sum = 0;
      for (size_t l = 0; l < k; ++l) sum += a[i * k + l] * w[j * k + l];
      sums[i * n + j] = sum;
      out[i * n + j] = static_cast<float>(sum) * (units[i] * weight.units[j]);
    }
  });
  if (on_product_) on_product_({block, layer, tokens_, codes, units, sums});
  return out;
}

// As packed_gemm_float defines it: four sums, by k % 4, each in the order of k.
std::vector<float> DeployReference::float_product(const QuantizedLayer& weight,
                                                  const std::vector<float>& x) {
  const auto rows = static_cast<size_t>(tokens_), k = static_cast<size_t>(weight.k),
             n = static_cast<size_t>(weight.n);
  const std::vector<float> w = numbers_of<float>(checkpoint_.recipe().weight, weight.codes);
  std::vector<float> out(rows * n);
  pool_.parallel_for(weight.n, [&](int64_t column) {
    const auto j = static_cast<size_t>(column);
    for (size_t i = 0; i < rows; ++i) {
      std::array<float, 4> sums{};
      for (size_t l = 0; l < k; ++l) {
        sums[l % 4] = std::fma(x[i * k + l], w[j * k + l], sums[l % 4]);
      }
      out[i * n + j] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * weight.units[j];
    }
  });
  return out;
}

std::vector<float> DeployReference::product(int64_t block, size_t layer, const Rows& x) {
  const QuantSpec& activation = checkpoint_.recipe().activation;
  const QuantSpec& spec = checkpoint_.recipe().weight;
  const QuantizedLayer weight = checkpoint_.quantize(block, layer, pool_);
  const bool is_float =
      !spec.is_quantized() ||
      kernels::choose_packed_plan(spec, activation, tokens_, weight.k, kScalar).method ==
          kernels::PackedMethod::kFloat;
  if (!is_float) return integer_product(block, layer, weight, x);

  // Activations as floats: rotated as the weights are, or the values of their codes.
  std::vector<float> values = x.values;
  if (activation.is_quantized()) {
    std::vector<int8_t> codes;
    std::vector<float> units;
    quantize(block, layer, x, weight.k, codes, units);
    kernels::dequantize_rows(activation, codes.data(), units.data(), tokens_, weight.k,
                             values.data(), kScalar);
  } else if (spec.hadamard) {
    kernels::hadamard_rows(x.values.data(), tokens_, weight.k, values.data(), kScalar);
  }
  if (spec.is_quantized()) return float_product(weight, values);
  PackedTable table;
  table.rows = weight.n;
  table.columns = weight.k;
  table.weight = weight.weight;
  return table_product(table, values, tokens_);
}

// qkv (T, (H + 2G) D) -> (T, H D), causal, with the FP16 cache of the engine's default.
std::vector<float> DeployReference::attention(std::vector<float> qkv) const {
  const LlamaConfig& c = checkpoint_.config();
  const int64_t stride = c.q_size() + 2 * c.kv_size(), group = c.num_heads / c.num_kv_heads;
  const RopeTable rope = make_rope_table(c, c.max_position_embeddings);
  std::vector<int32_t> positions(static_cast<size_t>(tokens_));
  std::iota(positions.begin(), positions.end(), 0);
  kernels::rope(qkv.data(), tokens_, stride, c.num_heads + c.num_kv_heads, c.head_dim,
                rope.cos.data(), rope.sin.data(), positions.data(), +1, kScalar);

  const deploy::KvShape shape{deploy::KvFormat::kFp16, c.head_dim};
  const int64_t pages = (tokens_ + deploy::kKvBlock - 1) / deploy::kKvBlock;
  std::vector<float> out(static_cast<size_t>(tokens_ * c.q_size()));
  AlignedBuffer<uint8_t> cache(pages * shape.block_bytes());
  AlignedBuffer<uint8_t> scratch(deploy::attend_scratch_bytes(shape));
  std::vector<const uint8_t*> blocks;
  for (int64_t p = 0; p < pages; ++p) blocks.push_back(cache.data() + p * shape.block_bytes());
  for (int64_t g = 0; g < c.num_kv_heads; ++g) {
    std::fill_n(cache.data(), cache.size(), uint8_t{0});
    for (int64_t t = 0; t < tokens_; ++t) {
      const float* row = qkv.data() + t * stride + c.q_size() + g * c.head_dim;
      deploy::append_kv(shape, row, row + c.kv_size(), t % deploy::kKvBlock,
                        cache.data() + t / deploy::kKvBlock * shape.block_bytes(), kScalar);
    }
    deploy::AttendTask task;
    task.blocks = blocks.data();
    task.q = qkv.data() + g * group * c.head_dim;
    task.q_stride = stride;
    task.tokens = tokens_;
    task.group = group;
    task.out = out.data() + g * group * c.head_dim;
    task.out_stride = c.q_size();
    deploy::attend(shape, task, scratch.data(), kScalar);
  }
  return out;
}

void DeployReference::run(std::span<const int32_t> tokens,
                          const std::function<void(const LayerProduct&)>& on_product) {
  const LlamaConfig& c = checkpoint_.config();
  on_product_ = on_product;
  tokens_ = static_cast<int64_t>(tokens.size());
  const auto width = static_cast<size_t>(c.hidden_size);
  hidden_.assign(tokens.size() * width, 0);
  for (size_t t = 0; t < tokens.size(); ++t) {
    dequantize_table_row(embedding_, tokens[t], std::span(hidden_).subspan(t * width, width));
  }
  const auto add = [&](const std::vector<float>& y) {
    deploy::add(y.data(), static_cast<int64_t>(y.size()), hidden_.data(), kScalar);
  };
  for (int64_t i = 0; i < c.num_layers; ++i) {
    stop_if_asked();
    const std::string name = fmt::format("model.layers.{}.", i);
    const Rows attended = {attention(product(i, 0, normed_rows(name + "input_layernorm.weight"))),
                           {}};
    add(product(i, 1, attended));
    const std::vector<float> gate_up =
        product(i, 2, normed_rows(name + "post_attention_layernorm.weight"));
    Rows inner;
    inner.values.resize(static_cast<size_t>(tokens_ * c.intermediate_size));
    deploy::swiglu(gate_up.data(), tokens_, c.intermediate_size, inner.values.data(), kScalar);
    add(product(i, 3, inner));
  }
  logits_ = table_product(head_, normed("model.norm.weight"), tokens_);
}

}  // namespace quest::convert
