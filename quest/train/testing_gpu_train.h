// Help for tests of training on a GPU: a small model, text with something to learn, a fixture that
// skips without a GPU. Tests only; header only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include "quest/data/data_loader.h"
#include "quest/model/llama_config.h"
#include "quest/ops/testing_gpu.h"
#include "quest/train/gpu_step.h"
#include "quest/train/testing_text.h"

namespace quest::testing {

inline LlamaConfig small(int64_t kv_heads = 4) {
  LlamaConfig c;
  c.vocab_size = 264;
  c.hidden_size = 128;
  c.num_layers = 2;
  c.num_heads = 4;
  c.num_kv_heads = kv_heads;
  c.head_dim = 32;
  c.intermediate_size = 256;
  c.max_position_embeddings = 32;
  return c;
}

inline Batch batch_of(int64_t rows, int64_t length, uint64_t seed) {
  Batch b;
  b.batch = rows;
  b.sequence_length = length;
  const std::vector<int32_t> t = markov_text(rows * length + 1, seed);
  b.inputs.assign(t.begin(), t.end() - 1);
  b.targets.assign(t.begin() + 1, t.end());
  return b;
}

inline at::Tensor tensor_of(const std::vector<int32_t>& ids, const Batch& b) {
  at::Tensor out = at::arange(b.batch * b.sequence_length, at::kLong);
  std::copy(ids.begin(), ids.end(), out.data_ptr<int64_t>());
  return out.view({b.batch, b.sequence_length});
}

// ||a - b|| / ||b||
inline double relative(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.cpu().to(at::kDouble), y = b.cpu().to(at::kDouble);
  return ((x - y).norm() / y.norm().clamp_min(1e-30)).item<double>();
}

class GpuTrain : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (!IsSkipped()) train::prepare_gpu(/*deterministic=*/true);
  }
};

}  // namespace quest::testing
