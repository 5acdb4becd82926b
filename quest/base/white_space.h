// White space around text. Not for files of one instruction-set level (quest/kernels/x86): the
// linker could take their copy of these functions for all.
#pragma once

#include <string_view>

namespace quest {

// That of ASCII, as std::isspace knows it in the "C" locale.
inline constexpr std::string_view kWhiteSpace = " \t\n\r\f\v";

// The text without the characters of `spaces` at its two ends: a part of `text`, which must outlive
// it. trimmed(" a b\n") == "a b".
inline std::string_view trimmed(std::string_view text, std::string_view spaces = kWhiteSpace) {
  const size_t first = text.find_first_not_of(spaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(spaces) - first + 1);
}

}  // namespace quest
