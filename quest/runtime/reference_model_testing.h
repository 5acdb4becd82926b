// A packed model computed in the plainest way, in double: what the engine is compared with. Tests
// only.
//
// Weights and tables are taken apart to numbers; activations are quantized by the scalar definition
// (quant/quantizer.h, in float, so that decisions are the deployed ones); all else is double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "quest/base/float16.h"
#include "quest/model/rope_table.h"
#include "quest/packed/packed_model.h"
#include "quest/packed/table_codes.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/quantizer.h"

namespace quest::testing {

using Matrix = std::vector<std::vector<double>>;

// The numbers of a packed tensor, in the rotated basis where the recipe rotates.
inline Matrix reference_weight(const PackedTensor& t) {
  Matrix w(static_cast<size_t>(t.n), std::vector<double>(static_cast<size_t>(t.k)));
  if (!t.spec.is_quantized()) {
    for (int64_t n = 0; n < t.n; ++n) {
      for (int64_t k = 0; k < t.k; ++k) w[n][k] = static_cast<float>(t.weight[n * t.k + k]);
    }
    return w;
  }
  std::vector<int8_t> codes(static_cast<size_t>(t.n * t.k));
  if (t.spec.grid == Grid::kUniform4of8) {
    unpack_sparse_tiles(sparse_tiles(t.n, t.k), t.codes.data(), t.pairs.data(), codes.data());
  } else {
    std::vector<uint8_t> stored(codes.size());
    unpack_code_tiles(t.tiles, t.codes.data(), stored.data());
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = code_of_stored(t.spec, stored[i]);
  }
  const CodeFormat format = code_format(t.spec);
  for (int64_t n = 0; n < t.n; ++n) {
    for (int64_t k = 0; k < t.k; ++k) {
      const int8_t code = codes[n * t.k + k];
      const double number = format.is_integer ? format.multiplier * code + format.offset
                                              : format.levels[static_cast<size_t>(code)];
      w[n][k] = number * t.units[n];
    }
  }
  return w;
}

inline Matrix reference_table(const PackedTable& t) {
  Matrix rows(static_cast<size_t>(t.rows));
  std::vector<float> row(static_cast<size_t>(t.columns));
  for (int64_t i = 0; i < t.rows; ++i) {
    dequantize_table_row(t, i, row);
    rows[i].assign(row.begin(), row.end());
  }
  return rows;
}

class ReferenceModel {
 public:
  // quantize_activations = false leaves them unrounded (rotated where the recipe rotates).
  // context: positions of the rotary table (0: the model's). Keys and values are rounded to half
  // precision, as the cache holds them.
  explicit ReferenceModel(const PackedModel& model, bool quantize_activations = true,
                          int64_t context = 0)
      : model_(model), quantize_(quantize_activations) {
    if (context == 0) context = model.config().max_position_embeddings;
    rope_ = make_rope_table(model.config(), context);
    embedding_ = reference_table(model.embedding());
    head_ = reference_table(model.head());
    for (int64_t i = 0; i < model.blocks(); ++i) {
      const PackedBlock& b = model.block(i);
      for (const PackedTensor* t : {&b.qkv, &b.o, &b.gate_up, &b.down}) {
        weights_.push_back(reference_weight(*t));
        has_rotated_weights_.push_back(t->spec.hadamard);
      }
    }
  }

  // Logits (T, V) of all tokens.
  Matrix logits(std::span<const int32_t> tokens) const {
    Matrix x;
    for (const int32_t token : tokens) x.push_back(embedding_[static_cast<size_t>(token)]);
    for (int64_t i = 0; i < model_.blocks(); ++i) block(i, x);
    Matrix result;
    for (const auto& row : x) {
      result.push_back(multiply(norm(row, model_.final_norm()), head_));
    }
    return result;
  }

 private:
  std::vector<double> norm(const std::vector<double>& x, std::span<const float> weight) const {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double inverse =
        1 / std::sqrt(squares / static_cast<double>(x.size()) + model_.config().rms_norm_eps);
    std::vector<double> y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * inverse * weight[i];
    return y;
  }
  static std::vector<double> multiply(const std::vector<double>& x, const Matrix& w) {
    std::vector<double> y(w.size());
    for (size_t n = 0; n < w.size(); ++n) {
      for (size_t k = 0; k < x.size(); ++k) y[n] += x[k] * w[n][k];
    }
    return y;
  }
  std::vector<double> linear(size_t index, const std::vector<double>& x) const {
    const QuantSpec& spec = model_.recipe().activation;
    std::vector<float> row(x.begin(), x.end());
    if (spec.is_quantized() && quantize_) {
      quantize_row<float>(spec, row, {.values = row});
      return multiply({row.begin(), row.end()}, weights_[index]);
    }
    std::vector<double> rotated = x;
    if (spec.hadamard || has_rotated_weights_[index]) {
      hadamard_transform<double>(rotated);
    }
    return multiply(rotated, weights_[index]);
  }
  void block(int64_t index, Matrix& x) const {
    const LlamaConfig& c = model_.config();
    const PackedBlock& b = model_.block(index);
    const auto tokens = static_cast<int64_t>(x.size());
    const RopeTable& rope = rope_;
    const int64_t d = c.head_dim, half = d / 2;
    Matrix qkv;
    for (int64_t t = 0; t < tokens; ++t) {
      qkv.push_back(linear(4 * index, norm(x[t], b.input_norm)));
      for (int64_t h = 0; h < c.num_heads + c.num_kv_heads; ++h) {
        for (int64_t i = 0; i < half; ++i) {
          double &first = qkv[t][h * d + i], &second = qkv[t][h * d + half + i];
          const double cosine = rope.cos[t * half + i], sine = rope.sin[t * half + i];
          const double a = first, s = second;
          first = a * cosine - s * sine;
          second = s * cosine + a * sine;
        }
      }
    }
    for (auto& row : qkv) {
      for (size_t i = static_cast<size_t>(c.q_size()); i < row.size(); ++i) {
        row[i] = half_to_float(float_to_half(static_cast<float>(row[i])));
      }
    }
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<double> mixed(static_cast<size_t>(c.q_size()));
      for (int64_t h = 0; h < c.num_heads; ++h) {
        const int64_t g = h / (c.num_heads / c.num_kv_heads);
        std::vector<double> weights(static_cast<size_t>(t + 1));
        double largest = -1e300, total = 0;
        for (int64_t j = 0; j <= t; ++j) {
          for (int64_t i = 0; i < d; ++i) {
            weights[j] += qkv[t][h * d + i] * qkv[j][c.q_size() + g * d + i];
          }
          weights[j] /= std::sqrt(static_cast<double>(d));
          largest = std::max(largest, weights[j]);
        }
        for (double& w : weights) total += (w = std::exp(w - largest));
        for (int64_t j = 0; j <= t; ++j) {
          for (int64_t i = 0; i < d; ++i) {
            mixed[h * d + i] += weights[j] / total * qkv[j][c.q_size() + c.kv_size() + g * d + i];
          }
        }
      }
      const auto added = linear(4 * index + 1, mixed);
      for (size_t i = 0; i < added.size(); ++i) x[t][i] += added[i];
    }
    const auto f = static_cast<size_t>(c.intermediate_size);
    for (auto& row : x) {
      const auto gate_up = linear(4 * index + 2, norm(row, b.post_attention_norm));
      std::vector<double> y(f);
      for (size_t i = 0; i < f; ++i) {
        y[i] = gate_up[i] / (1 + std::exp(-gate_up[i])) * gate_up[f + i];
      }
      const auto added = linear(4 * index + 3, y);
      for (size_t i = 0; i < added.size(); ++i) row[i] += added[i];
    }
  }

  const PackedModel& model_;
  bool quantize_;
  RopeTable rope_;
  Matrix embedding_, head_;
  std::vector<Matrix> weights_;
  std::vector<bool> has_rotated_weights_;
};

}  // namespace quest::testing
