// What the tokens of sequences are drawn by, in device memory. Internal to this room.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "quest/kernels/cuda/sample.h"
#include "quest/runtime/sampler.h"
#include "quest/runtime_gpu/cuda/device_model.h"

namespace quest::runtime_gpu {

namespace gpu = kernels::cuda;

inline at::Tensor bytes_on_gpu(const void* bytes, size_t size) {
  return to_device(bytes, static_cast<int64_t>(size), at::kByte);
}

// What tokens of a part's sequences are drawn by, in device memory.
struct Draws {
  at::Tensor rows;  // gpu::SampleRow of each sequence
  at::Tensor biases, seen;
};

struct DrawnSequence {
  const SamplerSettings* settings;
  std::span<const int32_t> previous;
  int64_t position;  // of its first draw
};

inline Draws draws_of(std::span<const DrawnSequence> sequences, int64_t vocabulary) {
  const auto words = static_cast<size_t>((vocabulary + 31) / 32);
  std::vector<gpu::TokenBias> biases;
  std::vector<uint32_t> seen;
  for (const DrawnSequence& s : sequences) {
    for (const auto& [token, bias] : s.settings->logit_bias) biases.push_back({token, bias});
    if (s.settings->repetition_penalty == 1.0) continue;
    seen.resize(seen.size() + words);
    const std::span<uint32_t> own = std::span(seen).last(words);
    for (const int32_t id : s.previous) {
      if (id < 0 || id >= vocabulary) continue;
      own[static_cast<size_t>(id / 32)] |= uint32_t{1} << (id % 32);
    }
  }
  Draws draws;
  draws.biases = bytes_on_gpu(biases.data(), biases.size() * sizeof(gpu::TokenBias));
  draws.seen = bytes_on_gpu(seen.data(), seen.size() * sizeof(uint32_t));
  const auto* next_bias = static_cast<const gpu::TokenBias*>(draws.biases.data_ptr());
  auto* next_seen = static_cast<uint32_t*>(draws.seen.data_ptr());
  std::vector<gpu::SampleRow> rows;
  for (const DrawnSequence& s : sequences) {
    gpu::SampleRow& row = rows.emplace_back();
    row.temperature = s.settings->temperature;
    row.top_p = s.settings->top_p;
    row.min_p = s.settings->min_p;
    row.repetition_penalty = s.settings->repetition_penalty;
    row.top_k = s.settings->top_k;
    row.seed = s.settings->seed;
    row.position = static_cast<uint64_t>(s.position);
    row.biases = next_bias;
    row.bias_count = static_cast<int64_t>(s.settings->logit_bias.size());
    next_bias += row.bias_count;
    if (row.repetition_penalty == 1.0) continue;
    row.seen = next_seen;
    next_seen += words;
  }
  draws.rows = bytes_on_gpu(rows.data(), rows.size() * sizeof(gpu::SampleRow));
  return draws;
}

}  // namespace quest::runtime_gpu
