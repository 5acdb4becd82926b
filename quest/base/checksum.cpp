#include "quest/base/checksum.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace quest {

uint64_t checksum64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::string checksum128_hex(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", static_cast<uint64_t>(hash.high64),
                     static_cast<uint64_t>(hash.low64));
}

std::string checksum128_hex(std::string_view text) {
  return checksum128_hex(std::as_bytes(std::span<const char>(text.data(), text.size())));
}

}  // namespace quest
