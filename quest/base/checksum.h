// XXH3 checksums (fast, not cryptographic): they find accidents, not attackers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

class ThreadPool;

uint64_t checksum64(std::span<const std::byte> bytes);
std::string checksum128_hex(std::span<const std::byte> bytes);  // 32 hexadecimal digits
std::string checksum128_hex(std::string_view text);

// The checksum of large data, which several threads can compute and a writer that streams too: the
// data is cut into pieces of 1 MiB, and the checksum is the XXH3-128 of the pieces' XXH3-128
// digests (16 bytes each, most significant byte first) one after the other.
//
//   PiecewiseChecksum sum;
//   sum.update(header);
//   sum.end_piece();               // what follows begins a piece of its own
//   sum.update(data, &pool);
//   sum.hex()
class PiecewiseChecksum {
 public:
  static constexpr size_t kPiece = size_t{1} << 20;

  // pool: if not null, its threads share the work; the result is the same.
  void update(std::span<const std::byte> bytes, ThreadPool* pool = nullptr);
  void end_piece();   // ends a piece that is shorter; nothing if none has begun
  std::string hex();  // 32 hexadecimal digits; ends the last piece

 private:
  std::vector<std::byte> pending_;  // a begun piece
  std::vector<std::byte> digests_;
};

}  // namespace quest
