// Applies a quantizer to the tensors of a safetensors file: the work of `quest quantize`.
//
// For each tensor NAME of floating type whose name matches the pattern, rows along the last
// dimension (a tensor of one dimension is one row), the output file holds
//   NAME.values          F32, as NAME: the quantized tensor in the basis of NAME (rotated back)
//   NAME.values_rotated  F32, as NAME: scale * number of each code (only with the Hadamard
//   transform) NAME.codes           I8, as NAME  (not for grids without codes) NAME.scales F32, one
//   per row: value = scale * number(code), "code_format" in the metadata NAME.mask            U8,
//   (rows, ceil(K/8)): gradient passes where bit k%8 of byte k/8 is set NAME.grad            F32,
//   as NAME: the gradient of NAME, if a gradient of NAME.values is named
//
//   const auto reports = cli::quantize_file({.input = "a.safetensors", .output = "q.safetensors",
//                                            .spec = spec_from_string("int4.hadamard.trust")});
//   fmt::print("{}", cli::format_quantize_report(reports));
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "quest/quant/quant_spec.h"

namespace quest::cli {

struct QuantizeFileOptions {
  std::filesystem::path input;
  std::filesystem::path output;
  QuantSpec spec;
  std::string pattern = "*";  // shell pattern of tensor names
  std::string gradient;  // name of a tensor in the input, of the shape of every matching tensor
};

struct QuantizeReport {
  std::string name;
  int64_t rows = 0, k = 0;
  double mean_squared_error = 0;
  double relative_error = 0;   // mean squared error / mean square; NaN for a tensor of zeros
  double masked_fraction = 0;  // of values whose gradient is stopped
  // Number of values per number (integer grids) or level, ascending, those that do not occur too;
  // empty for grids without codes.
  std::vector<std::pair<float, int64_t>> histogram;

  double signal_to_noise_db() const;
};

// Throws kUsage (nothing matches, another shape than the gradient's, a row length that the spec
// refuses), kData (an integer tensor, an empty one), kNumeric (a row that is not finite) with the
// tensor's name, and what reading and writing throw. The output appears only when all went well.
std::vector<QuantizeReport> quantize_file(const QuantizeFileOptions& options);

// A table, and below it each tensor's histogram of codes (at most 16 bins).
std::string format_quantize_report(const std::vector<QuantizeReport>& reports);

// "w4a4", ... (the side that is asked for) or "int4.hadamard.trust", ...; throws kUsage listing
// both.
QuantSpec spec_of_argument(const std::string& text, bool activation_side);

}  // namespace quest::cli
