// Amounts as people write them in flags, and as tables show them.
//
//   parse_count("1.6B", "--tokens");      // 1.6e9
//   parse_bytes("500MB", "--memory");     // 5e8; 512MiB is 2^29
//
// Thread rules: pure.
#pragma once

#include <string>

namespace quest::cli {

// A number above 0, also 3e9, with K, M, B or T behind it. Throws kUsage naming the flag.
double parse_count(const std::string& text, const std::string& flag);
// A number above 0 with B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024); without
// a unit, bytes.
double parse_bytes(const std::string& text, const std::string& flag);

std::string count_text(double count);  // "1.60B", "30.5M", "812"
std::string bytes_text(double bytes);  // "1.60 GB", "30.5 MB", "812 B"

}  // namespace quest::cli
