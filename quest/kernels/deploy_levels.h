// Inside of deploy: the functions of one level. Not for callers.
#pragma once

#include <cstdint>

#include "quest/kernels/deploy.h"

namespace quest::kernels::detail {

struct DeployLevel {
  // Sums of squares of a row's chunks of 128 (quest/quant/sum_of_squares.h).
  void (*square_chunks)(const float* x, int64_t c, float* chunk_sums);
  // y (C) = x * factor * weight.
  void (*scale)(const float* x, const float* weight, int64_t c, float factor, float* y);
  void (*swiglu)(const float* gate_up, int64_t m, int64_t f, float* y);
  void (*add)(const float* x, int64_t n, float* y);
  float (*largest)(const float* x, int64_t n);
  double (*sum_exp)(const float* x, int64_t n, float largest);
  void (*append_kv)(const deploy::KvShape& shape, const float* k, const float* v, int64_t slot,
                    uint8_t* block);
  void (*attend)(const deploy::KvShape& shape, const deploy::AttendTask& task, void* scratch);
};

const DeployLevel& deploy_scalar();
const DeployLevel& deploy_avx2();
const DeployLevel& deploy_avx512();

}  // namespace quest::kernels::detail
