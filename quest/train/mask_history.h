// The gradient masks of all weights at earlier steps, one bit per weight, and how many weights that
// were masked then are masked still (QuEST, arXiv 2502.05003, Figure 9).
//
//   MaskHistory history(/*keep=*/8);
//   history.add(step, bits, weights);   // bits: rows padded with zeros to whole bytes; 1: passes
//   history.save(checkpoint / "masks.safetensors");
//
// Of all steps added, at most `keep` are kept, evenly spaced: the first is one of them, and when
// one is too many, every second is dropped and from then on only every second one is taken. Memory:
// keep * bits.size() bytes. Thread rules: one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include <nlohmann/json.hpp>

namespace quest::train {

class MaskHistory {
 public:
  explicit MaskHistory(int64_t keep) : keep_(keep) {}

  // Of the weights masked at each kept step, the share that `bits` mask too; steps at which none
  // was masked are left out. weights: how many bits are not padding.
  struct Retained {
    int64_t since_step = 0;
    double retained = 0;
  };
  std::vector<Retained> retained(std::span<const uint8_t> bits, int64_t weights) const;
  // Of rising steps, always the same size.
  void add(int64_t step, std::span<const uint8_t> bits);

  std::vector<int64_t> steps() const;

  // Nothing is written if nothing is kept. Throws kIo.
  void save(const std::filesystem::path& file) const;
  // Replaces what is held by what the file has; by nothing if there is no file. Throws kData if
  // its masks are not of `bytes` bytes each.
  void load(const std::filesystem::path& file, int64_t bytes);

 private:
  struct Entry {
    int64_t step = 0;
    std::vector<uint8_t> bits;
  };
  void thin();

  int64_t keep_;
  int64_t added_ = 0;   // times that add() was called
  int64_t stride_ = 1;  // of those every stride-th is kept
  std::vector<Entry> entries_;
};

}  // namespace quest::train
