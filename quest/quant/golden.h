// Comparison of the quantizers with golden values: the quantizer part of `quest selftest`.
//
// A golden folder holds quantizers.safetensors: inputs `x` and `grad_out` (R rows of K) and for
// each case `<spec>.y` and `<spec>.grad_x`, where <spec> is the text of a QuantSpec (quant_spec.h),
// all F32; Lloyd-Max levels `gauss<b>.levels`; and learned-step cases (`<format>.lsq*`), which
// ops/golden_learned.h judges. R, K and the cases are read from the file. An optional golden.json
// states trust limits: key "<spec>.trust", a number in units of rms.
//
// The rule. y and grad_x of a Hadamard case are in the original basis; both sides are rotated back
// before they are compared. Every value must agree to 1e-5 of its row's largest |golden|. A value
// that does not is a tie, counted and not failed, if moving its xh by 4e-7 of the row's largest
// |xh| changes its code, its mask bit or its kept pair: reference and program then round the two
// sides of a decision. A case passes if every other value agrees and fewer than 0.1 % of its values
// are ties. Other implementations of the quantizers must equal the scalar definition bit for bit.
//
//   const auto others = kernels::quantizer_implementations();
//   for (const GoldenCase& result : run_quantizer_golden("tests/golden", others)) ...
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quest/quant/quant_spec.h"

namespace quest {

enum class GoldenStatus { kPass, kFail, kSkipped };

struct GoldenCase {
  std::string name;   // "int4.hadamard.trust"
  std::string group;  // "quantizers"
  double max_deviation =
      0;  // largest difference of a value that is no tie, relative as the rule says
  int64_t ties = 0;
  int64_t values = 0;
  GoldenStatus status = GoldenStatus::kPass;
  std::string note;  // why it failed or was skipped
};

// What an implementation makes of R rows of K values and the gradient of its output.
struct QuantizerResult {
  std::vector<float> y;       // (R,K) quantized, in the original basis
  std::vector<float> grad_x;  // (R,K)
  std::vector<int8_t> codes;  // (R,K); empty for grids without codes
  std::vector<float> units;   // (R)
  std::vector<uint8_t> mask;  // (R, ceil(K/8))
};

struct QuantizerImplementation {
  std::string name;  // "avx512"
  // grad_out is the gradient of y, in the original basis. Nothing if the grid is not supported.
  std::function<std::optional<QuantizerResult>(const QuantSpec&, std::span<const float> x,
                                               std::span<const float> grad_out, int64_t rows,
                                               int64_t k)>
      run;
};

// The scalar definition, as an implementation.
QuantizerResult run_scalar_quantizer(const QuantSpec& spec, std::span<const float> x,
                                     std::span<const float> grad_out, int64_t rows, int64_t k);

// One result per case, in the order of their names. Throws kIo or kData if the file is missing or
// is not what this header says (no `x`, wrong shapes or types); a tensor name that is no case is a
// failed case. `learned`: results of the learned-step cases; those that are not there are skipped.
std::vector<GoldenCase> run_quantizer_golden(const std::filesystem::path& folder,
                                             std::span<const QuantizerImplementation> others = {},
                                             std::span<const GoldenCase> learned = {});

// The case of a learned step that a tensor belongs to: "int2.lsq_plus_weight.alpha_weight" ->
// "int2.lsq_plus_weight"; empty if it belongs to none.
std::string learned_case_of(const std::string& tensor_name);

}  // namespace quest
