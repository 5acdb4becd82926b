// A checkpoint in deploy numerics (docs/numerics.md), computed the plain way: the judge of the CPU
// engine. Weights are quantized afresh from the masters and never packed; products are loops over
// the definition; norms, rotary embedding, attention and SwiGLU are the scalar forms of the kernels
// that promise the same bits at every level.
//
//   DeployReference reference(checkpoint, packed.embedding(), packed.head());
//   reference.run(tokens, [&](const LayerProduct& p) { ... });      // each product, in order
//   reference.logits(t)                                             // (V) after token t
//
// One thread calls; products are dealt out to a pool, which changes no bit.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "quest/base/thread_pool.h"
#include "quest/convert/checkpoint_layers.h"

namespace quest::convert {

// One product of quantized activations with integer codes on both sides.
struct LayerProduct {
  int64_t block = 0;
  size_t layer = 0;  // of packed_layers
  int64_t rows = 0;
  std::span<const int8_t> codes;  // (rows, K) of the activations
  std::span<const float> units;   // (rows)
  std::span<const int32_t> sums;  // (rows, N)
};

class DeployReference {
 public:
  // The tables' codes are taken from the packed model: verify_codes proves them.
  DeployReference(const CheckpointLayers& checkpoint, const PackedTable& embedding,
                  const PackedTable& head);

  // Reads a whole sequence from its beginning. Throws kNumeric for values that are not finite.
  void run(std::span<const int32_t> tokens,
           const std::function<void(const LayerProduct&)>& on_product);
  std::span<const float> logits(int64_t t) const;  // (V)

 private:
  // What a layer multiplies: values, and what the units of the rows are times (none: 1).
  struct Rows {
    std::vector<float> values, factors;
  };
  std::vector<float> product(int64_t block, size_t layer, const Rows& x);
  std::vector<float> integer_product(int64_t block, size_t layer, const QuantizedLayer& weight,
                                     const Rows& x);
  // Codes and units of the rows.
  void quantize(int64_t block, size_t layer, const Rows& x, int64_t k, std::vector<int8_t>& codes,
                std::vector<float>& units) const;
  std::vector<float> float_product(const QuantizedLayer& weight, const std::vector<float>& x);
  std::vector<float> attention(std::vector<float> qkv) const;
  std::vector<float> normed(const std::string& weight) const;
  // The same for a layer of a block: with quantized activations the norm's factors apart.
  Rows normed_rows(const std::string& weight) const;

  const CheckpointLayers& checkpoint_;
  const PackedTable &embedding_, &head_;
  ThreadPool pool_;
  int64_t tokens_ = 0;
  std::vector<float> hidden_, logits_;
  std::function<void(const LayerProduct&)> on_product_;
};

}  // namespace quest::convert
