// The product of codes with weights in lane order, for packed_gemm.h and for table_gemm.h's int8
// form, which is one of rows of halves. Internal to the kernel files.
#pragma once

#include <algorithm>
#include <cstdint>

#include "quest/base/integer_math.h"
#include "quest/kernels/cuda/device_facts.h"
#include "quest/kernels/cuda/launch.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/cuda/packed_rule.h"
#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {

// Tiles, spans or blocks of a launch, which are few: values / each, rounded up.
inline int count_of(int64_t values, int64_t each) {
  return static_cast<int>(divide_up(values, each));
}

inline constexpr int kMaxBlockTiles = 16;
// Deals cut.tiles to `blocks` blocks, or to as many more as kMaxBlockTiles asks for.
template <class Cut>
void deal_tiles(Cut& cut, int blocks) {
  cut.blocks = std::max(std::min(cut.tiles, blocks), count_of(cut.tiles, kMaxBlockTiles));
  cut.block_tiles = count_of(cut.tiles, cut.blocks);
}

// What the sums become.
enum class ProductForm { kFloat, kBfloat16, kHalves };

struct ProductTask {
  const uint4* lanes = nullptr;
  const float* units = nullptr;          // (N)
  const int32_t* number_sums = nullptr;  // (N), if a_offset != 0
  const int8_t* codes = nullptr;         // (M,K)
  const float* a_units = nullptr;        // (M); kHalves: (M/2)
  void* out = nullptr;                   // (M,N); kHalves: (M/2,N), float
  int32_t* acc = nullptr;
  int64_t out_stride = 0;
  int m = 0, n = 0, k = 0;
  ProductForm form = ProductForm::kFloat;
  int w_multiplier = 1, w_offset = 0, a_multiplier = 1, a_offset = 0;
  uint32_t table[4] = {};  // numbers of FP4
};

// a / b from 1 / b in FP32, much shorter than the division. Exact for b up to 4096 and quotients up
// to 64: the error is below 64 * 2^-21, the distance to the next integer at least 1 / (2 b).
__device__ inline int quotient(int a, float inverse) {
  return static_cast<int>((static_cast<float>(a) + 0.5f) * inverse);
}

// acc = a_multiplier (w_multiplier dot + w_offset sum_c code) + a_offset sum_k number, modulo 2^32.
__device__ inline int32_t exact_sum(const ProductTask& p, int32_t dot, int32_t code_sum,
                                    int32_t number_sum) {
  const uint32_t inner = static_cast<uint32_t>(p.w_multiplier) * static_cast<uint32_t>(dot) +
                         static_cast<uint32_t>(p.w_offset) * static_cast<uint32_t>(code_sum);
  return static_cast<int32_t>(static_cast<uint32_t>(p.a_multiplier) * inner +
                              static_cast<uint32_t>(p.a_offset) *
                                  static_cast<uint32_t>(number_sum));
}

// Everything of a task but codes, units of rows, and where the sums go.
void set_operands(ProductTask& task, const DeviceWeight& weight, const PackedRule& rule, int64_t m);

// kind: 1 to 8 bits, kPackedFp4 or kPackedOneBit.
void launch_packed_product(const char* operation, int kind, const ProductTask& task, Stream stream);

// Makes all of the shared memory of a multiprocessor a kernel's for the asking, but for the bytes
// that it has of a size known when it is compiled.
template <class Kernel>
void allow_shared(const char* operation, Kernel* kernel, int fixed = 0) {
  check(operation, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        device_facts().block_shared - fixed));
}

}  // namespace quest::kernels::cuda
