#include "quest/kernels/golden_implementations.h"

#include <string>

#include "quest/kernels/hadamard_quantize.h"

namespace quest::kernels {
namespace {

std::optional<QuantizerResult> run(const QuantSpec& spec, std::span<const float> x,
                                   std::span<const float> grad_out, int64_t rows, int64_t k,
                                   IsaLevel level) {
  if (spec.grid == Grid::kNone || spec.grid == Grid::kMask4of8) return std::nullopt;
  const size_t m = static_cast<size_t>(rows), mask_size = static_cast<size_t>((k + 7) / 8);
  QuantizerResult out;
  out.codes.resize(x.size());
  out.units.resize(m);
  out.mask.resize(m * mask_size);
  out.y.resize(x.size());
  out.grad_x.assign(grad_out.begin(), grad_out.end());
  hadamard_quantize(spec, x.data(), rows, k, out.codes.data(), out.units.data(), out.mask.data(),
                    level);
  dequantize_rows(spec, out.codes.data(), out.units.data(), rows, k, out.y.data(), level);
  if (spec.hadamard) {
    hadamard_rows(out.y.data(), rows, k, out.y.data(), level);
    hadamard_rows(out.grad_x.data(), rows, k, out.grad_x.data(), level);
  }
  mask_hadamard(spec, out.grad_x.data(), out.mask.data(), rows, k, out.grad_x.data(), level);
  return out;
}

}  // namespace

std::vector<QuantizerImplementation> quantizer_implementations() {
  std::vector<QuantizerImplementation> all;
  for (const IsaLevel level : available_isa_levels()) {
    const std::string name = hadamard_quantize_plan(level);
    if (!all.empty() && all.back().name == name) continue;
    all.push_back({name, [level](const QuantSpec& spec, std::span<const float> x,
                                 std::span<const float> grad_out, int64_t rows,
                                 int64_t k) { return run(spec, x, grad_out, rows, k, level); }});
  }
  return all;
}

}  // namespace quest::kernels
