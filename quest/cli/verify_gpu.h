// The part of `quest verify --device cuda` that compares the GPU's engine with the CPU's, which the
// definition vouches for:
//
//   exact    numerics "exact": logits of every token, bit for bit (of models whose products are of
//            integer codes)
//   prompts  numerics "fast", a prompt read at once: how often the most likely next token is the
//            same, given the same tokens before (teacher-forced)
//   tokens   the same, read token by token, many sequences at once
//   batches  of these, whether a sequence alone gives the same bits
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace quest::cli {

// Of the positions, at which the most likely token has to be the CPU's.
inline constexpr double kGreedyAgreement = 0.99;

struct GpuReport {
  nlohmann::ordered_json json;           // for verify.json
  std::vector<std::string> differences;  // beyond what is allowed
};
// Prompts are cut from tokens, at most `prompts` of up to 128 tokens each. Prints. Throws
// kEnvironment without a GPU.
GpuReport verify_gpu(const std::filesystem::path& packed, std::span<const int32_t> tokens,
                     int64_t prompts);

}  // namespace quest::cli
