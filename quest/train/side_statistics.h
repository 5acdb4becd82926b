// What a quantizer does to a tensor: one side (the weight or the input) of one layer.
//
//   SideStatistics side(recipe.weight, "model.layers.0.mlp.down_proj.weight");
//   side.add(weight);                 // or batch by batch for an input
//   side.json();                      // {"masked":..,"masked_gaussian":..,"relative_error":..,..}
//
// A key of json() is absent where it makes no sense:
//   masked           share of the values that pass no gradient            (grids with a mask, and
//                    registered quantizers: as autograd says)
//   masked_gaussian  gaussian_masked_fraction(spec)                       (grids with a mask)
//   relative_error   sum of (q - xh)^2 / sum of xh^2                      (quantized sides)
//   kurtosis         of the values as they come: mean over the rows of mean(x^4) / mean(x^2)^2;
//                    3 K / (K + 2) for a Gaussian row of K values; rows of zeros are left out
//   kurtosis_rotated of xh, the same values after the Hadamard transform, whether the spec has it
//                    or not                                               (K a multiple of 16)
//   dead_codes       codes that no value has                              (grids with codes, and
//                    registered quantizers that say theirs: TensorQuantizer::codes)
//   code_use         share of the values that have each code, ascending   (the same)
// Numbers are rounded to six digits. Values are quantized in FP32, as training does (with FP64
// compute a value within rounding of a decision may differ). The same bits for the same number of
// threads.
//
// Thread rules: one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "quest/ops/tensor_quantizer.h"
#include "quest/quant/quant_spec.h"
#include "quest/train/metrics.h"

namespace quest::train {

class SideStatistics {
 public:
  // What a registered quantizer makes of x (M,K), by way of autograd: its values (M,K), rotated if
  // the spec is.
  using Values = std::function<at::Tensor(const at::Tensor&)>;
  // The codes of the same values; called after it.
  using Codes = std::function<ops::QuantizerCodes(const at::Tensor&)>;
  // name: of the tensor, for errors and for TensorBoard. values and codes: of a registered
  // quantizer, without codes if it has none.
  SideStatistics(const QuantSpec& spec, std::string name, Values values = {}, Codes codes = {});

  // x (..., K), any float type, any device. Throws kNumeric as ops::quantize does. mask_bits: what
  // the gradient mask of x is appended to, rows of ceil(K/8) bytes, bit k%8 of byte k/8; nothing if
  // the side has no mask. Throws kNumeric too for codes that are not among their levels.
  void add(const at::Tensor& x, std::vector<uint8_t>* mask_bits = nullptr);

  nlohmann::ordered_json json() const;
  // Values in units of their row's RMS, as the grid sees them (rotated if the spec is), between -6
  // and 6 with what lies beyond in the outermost buckets; use of codes over their numbers.
  std::vector<Histogram> histograms() const;

 private:
  struct Kurtosis {
    double sum = 0;
    int64_t rows = 0;
    void add(const at::Tensor& x);  // (M,K) f64
  };

  // Counts what passes a gradient and the codes; the values (M,K).
  at::Tensor add_registered(const at::Tensor& rows);
  at::Tensor add_passing(const at::Tensor& rows);
  // values: of a registered quantizer (M,K), else undefined.
  void add_rows(const at::Tensor& x, const at::Tensor& values, std::vector<uint8_t>* mask_bits);
  void add_codes(const at::Tensor& codes);
  void add_registered_codes(const ops::QuantizerCodes& codes);
  void add_values(const at::Tensor& xh);

  QuantSpec spec_;
  std::string name_;
  Values registered_;
  Codes registered_codes_;
  int64_t values_ = 0;
  int64_t passing_ = 0;  // of values_, by the mask
  double error_ = 0, power_ = 0;
  Kurtosis plain_, rotated_;
  std::vector<double> levels_;   // of the codes, ascending; empty: there are none
  std::vector<int64_t> counts_;  // of the values at each of them
  Histogram histogram_;
};

}  // namespace quest::train
