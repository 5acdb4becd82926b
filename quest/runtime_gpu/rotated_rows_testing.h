// Rows as a kernel leaves them to decode_linear (quest/kernels/cuda/decode_linear.h), by the CPU's
// definitions.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

#include <ATen/ops/zeros.h>

#include "quest/kernels/cuda/packed_fields.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/sum_of_squares.h"
#include "quest/runtime_gpu/testing_device.h"

namespace quest::testing {

// On the CPU, of rows (M,K) rotated in blocks: the sums of squares of every 128 values, and the
// signs.
struct RotatedRows {
  at::Tensor chunks, signs;

  RotatedRows(const at::Tensor& rows, int64_t block) {
    const at::Tensor values = rows.cpu().clone();
    const int64_t m = values.size(0), k = values.size(1);
    chunks = at::zeros({m, (k + 127) / 128}, values.options());
    signs = at::zeros({m, (k + 31) / 32}, at::kInt);
    for (int64_t i = 0; i < m; ++i) {
      const std::span row(ops::data<float>(values) + i * k, static_cast<size_t>(k));
      turn(row, static_cast<size_t>(block), ops::data<float>(chunks) + i * chunks.size(1),
           std::bit_cast<uint32_t*>(ops::data<int32_t>(signs)) + i * signs.size(1));
    }
  }

 private:
  static void turn(std::span<float> row, size_t block, float* sums, uint32_t* words) {
    for (size_t at = 0; block > 1 && at < row.size(); at += block) {
      hadamard_transform<float>(row.subspan(at, block));
    }
    for (size_t at = 0; at < row.size(); at += kSumChunk) {
      sums[at / kSumChunk] =
          sum_of_squares<float>(row.subspan(at, std::min(kSumChunk, row.size() - at)));
    }
    for (size_t i = 0; i < row.size(); ++i) {
      if (row[i] > 0) words[i / 32] |= 1u << kernels::cuda::plane_bit<1>(static_cast<int>(i % 32));
    }
  }
};

}  // namespace quest::testing
