// A 4-bit product y = x w^T as the library computes it: rows of both sides become codes and units,
// the codes are multiplied exactly as integers, and the units are applied at the end.
#include <cmath>
#include <cstdio>
#include <vector>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/kernels/gemm_lowbit.h"
#include "quest/kernels/hadamard_quantize.h"

int main() {
  try {
    constexpr int64_t kRows = 3, kOutputs = 64, kInputs = 256;  // M, N, K
    const quest::QuantRecipe recipe = quest::recipe_from_name("w4a4");
    const quest::Philox random(/*seed=*/7);
    std::vector<float> x(kRows * kInputs), w(kOutputs * kInputs);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.normal(i));
    for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(random.normal(x.size() + i));

    std::vector<int8_t> x_codes(x.size()), w_codes(w.size());
    std::vector<float> x_units(kRows), w_units(kOutputs), y(kRows * kOutputs);
    quest::kernels::hadamard_quantize<float>(recipe.activation, x.data(), kRows, kInputs,
                                             x_codes.data(), x_units.data(), nullptr);
    quest::kernels::hadamard_quantize<float>(recipe.weight, w.data(), kOutputs, kInputs,
                                             w_codes.data(), w_units.data(), nullptr);
    const quest::CodeFormat format = quest::code_format(recipe.weight);
    const auto packed = quest::kernels::pack_codes(format, w_codes.data(), kOutputs, kInputs);
    quest::kernels::gemm_lowbit<float>(quest::code_format(recipe.activation), x_codes.data(),
                                       x_units.data(), 0, kRows, packed, w_units.data(), 0,
                                       kOutputs, y.data(), kOutputs);

    double error = 0, power = 0;
    for (int64_t m = 0; m < kRows; ++m) {
      for (int64_t n = 0; n < kOutputs; ++n) {
        double exact = 0;
        for (int64_t k = 0; k < kInputs; ++k) exact += x[m * kInputs + k] * w[n * kInputs + k];
        error += std::pow(y[m * kOutputs + n] - exact, 2);
        power += exact * exact;
      }
    }
    std::printf("kernel: %s\n", quest::kernels::gemm_lowbit_plan());
    std::printf("relative error of the product: %.3f\n", std::sqrt(error / power));
  } catch (const quest::Error& error) {
    std::fprintf(stderr, "exact_product: %s\n", error.what());
    return quest::exit_code(error.kind());
  }
}
