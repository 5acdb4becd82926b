// How fast a linear layer is on this GPU: in BF16 (LibTorch's product, cuBLAS) and quantized, with
// packed weights and with weights kept as int8, with and without the Hadamard transform.
//
//   LayerBench bench(recipe_from_name("w4a4"), /*n=*/12288, /*k=*/4096);
//   for (const LayerTime& t : bench.time(/*m=*/64)) fmt::print("{} {}\n", t.plan, t.seconds);
//
// Times are the GPU's, of CUDA graphs of many calls, so that the host does not count: medians of
// `repeats` replays. Calls rotate through copies of the weights that are together larger than the
// L2 cache, as they are in a model; activations (BF16) are where the call before left them.
// Thread rules: one thread. Errors: kEnvironment where no GPU can be used, its memory does not
// suffice or it lacks the products; kUsage for recipes and shapes that these do not have.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quest/quant/quant_spec.h"

namespace quest {

struct LayerTime {
  enum class Weights { kBf16, kPacked, kInt8 };
  enum class Work { kProduct, kQuantize, kHadamardQuantize };  // the last two with the product

  Weights weights = Weights::kBf16;
  Work work = Work::kProduct;
  double seconds = 0;        // of one call
  int64_t weight_bytes = 0;  // what lies in memory, with units
  std::string plan;          // "packed, 1 to 64 rows", ...
};

class LayerBench {
 public:
  // recipe: the grids of weights and activations; both ways of the transform are timed whatever it
  // says. n, k: outputs and inputs.
  LayerBench(const QuantRecipe& recipe, int64_t n, int64_t k, int64_t repeats = 15);
  ~LayerBench();
  LayerBench(const LayerBench&) = delete;
  LayerBench& operator=(const LayerBench&) = delete;

  // m rows: BF16 first, then packed weights (unpacked before each product above kMaxPackedRows,
  // packed_gemm.h) and, where there are more than 16 rows and int8 products, weights kept as int8:
  // each the product alone, with quantization, and with Hadamard transform and quantization.
  std::vector<LayerTime> time(int64_t m);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quest
