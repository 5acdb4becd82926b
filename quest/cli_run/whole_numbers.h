// Check of an option that is a whole number. CLI11's NonNegativeNumber names the largest double
// with 309 digits in its message, and without a check -1 passes as the unsigned 2^64 - 1.
//
//   command->add_option("--seed", seed, "...")->check(whole_number_from(0));
#pragma once

#include <charconv>
#include <cstdint>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace quest::cli {

// Takes what an int64_t holds: larger numbers are refused, not cut.
inline CLI::Validator whole_number_from(int64_t lowest) {
  const auto check = [lowest](std::string& text) {
    const char* end = text.data() + text.size();
    int64_t value = 0;
    const auto [rest, problem] = std::from_chars(text.data(), end, value);
    const bool good = problem == std::errc() && rest == end && value >= lowest;
    return good
               ? std::string()
               : fmt::format("'{}' is not a whole number of at least {}, below 2^63", text, lowest);
  };
  return {check, fmt::format("{} OR MORE", lowest)};
}

}  // namespace quest::cli
