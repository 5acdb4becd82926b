// The program quest with a quantizer of your own: `my-quest train --quant w4a4_soft ...`.
//
// Soft trust: the method's grid, but the gradient of a value fades with its rounding error instead
// of being cut off where the error exceeds half a step.
#include <cmath>

#include <ATen/ATen.h>

#include "quest/cli/quest_main.h"
#include "quest/ops/tensor_quantizer.h"

namespace {

class SoftTrust : public quest::ops::TensorQuantizer {
 public:
  explicit SoftTrust(int bits) : bits_(bits) {}

  // x (rows, K), rotated already where the recipe says so.
  at::Tensor forward(const at::Tensor& x) override {
    const quest::QuantSpec grid{.grid = quest::Grid::kUniform, .bits = bits_};
    const at::Tensor q = quest::ops::fake_quantize(grid, x.detach(), x.scalar_type(), "soft trust");
    const at::Tensor rms = x.detach().square().mean({1}, /*keepdim=*/true).sqrt();
    const double steps = std::exp2(bits_) - 1;
    const at::Tensor half_step = rms * (quest::optimal_gaussian_scale(bits_) / steps) + 1e-8;
    const at::Tensor trust = at::exp(-((q - x.detach()) / half_step).square());
    return q + trust * (x - x.detach());  // the value of q, the gradient trust
  }

 private:
  int bits_;
};

}  // namespace

int main(int argc, char** argv) {
  quest::ops::register_quantizer(
      {.name = "soft", .help = "the method's grid, gradients fade with the rounding error"},
      [](const quest::ops::QuantizerPlace& place) {
        return std::make_unique<SoftTrust>(place.bits);
      });
  return quest::cli::quest_main(argc, argv);
}
