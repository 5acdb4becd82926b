// XXH3 checksums (fast, not cryptographic): they find accidents, not attackers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace quest {

uint64_t checksum64(std::span<const std::byte> bytes);
std::string checksum128_hex(std::span<const std::byte> bytes);  // 32 hexadecimal digits
std::string checksum128_hex(std::string_view text);

}  // namespace quest
