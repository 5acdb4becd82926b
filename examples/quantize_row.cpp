// Quantizes one row of normally distributed numbers in several formats and prints what is lost.
//
//   quantize_row [K]        K numbers, 4096 if not given
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/quant/quantizer.h"

int main(int argc, char** argv) {
  try {
    const int64_t k = argc > 1 ? std::atoll(argv[1]) : 4096;
    QUEST_CHECK(k >= 16, quest::ErrorKind::kUsage, "K is {}, at least 16 is needed", k);
    const quest::Philox random(/*seed=*/1);
    std::vector<float> x(k), rotated(k), values(k);
    for (int64_t i = 0; i < k; ++i) x[i] = static_cast<float>(random.normal(i));

    std::printf("%-10s %12s %14s %10s\n", "recipe", "unit", "squared error", "trusted");
    for (const char* name : {"w8a8", "w4a4", "w3a3", "w2a2", "w1a1", "fp4"}) {
      const quest::QuantSpec spec = quest::recipe_from_name(name).weight;
      std::vector<uint8_t> mask((k + 7) / 8);
      quest::RowOutput<float> out;
      out.mask = mask;            // which values would pass gradient in training
      out.values = values;        // the quantized row, in the rotated basis
      out.transformed = rotated;  // the rotated row
      const float unit = quest::quantize_row<float>(spec, x, out);

      double error = 0, power = 0;
      int64_t trusted = 0;
      for (int64_t i = 0; i < k; ++i) {
        error += (values[i] - rotated[i]) * (values[i] - rotated[i]);
        power += rotated[i] * rotated[i];
        trusted += mask[i / 8] >> (i % 8) & 1;
      }
      std::printf("%-10s %12.6f %14.6f %9.2f%%\n", name, unit, error / power,
                  100.0 * static_cast<double>(trusted) / static_cast<double>(k));
    }
  } catch (const quest::Error& error) {
    std::fprintf(stderr, "quantize_row: %s\n", error.what());
    return quest::exit_code(error.kind());
  }
}
