// The part of `quest verify --device cuda` that compares the GPU's engine with the CPU's, which the
// definition vouches for:
//
//   exact    numerics "exact": logits of every token, bit for bit
//   tokens   numerics "fast", prompts read token by token, many sequences at once: how often the
//            most likely next token is the same, given the same tokens before (teacher-forced)
//   prompts  the same, a prompt read at once: in BF16, as training does
//   batches  of `tokens`, whether a sequence alone gives the same bits
//
// exact and batches are judged, for models whose products are of integer codes; the shares are
// stated: how many positions the roundings of BF16 turn depends on the model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace quest::cli {

struct GpuReport {
  nlohmann::ordered_json json;           // for verify.json
  std::vector<std::string> differences;  // beyond what is allowed
};
// Prompts are cut from tokens, at most `prompts` of up to 128 tokens each. Prints. Throws
// kEnvironment without a GPU.
GpuReport verify_gpu(const std::filesystem::path& packed, std::span<const int32_t> tokens,
                     int64_t prompts);

}  // namespace quest::cli
