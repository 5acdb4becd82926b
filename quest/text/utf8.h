// Well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quest {

// Length (1 to 4) of the well-formed character at the front of text, or 0 if there is none.
int utf8_character_length(std::string_view text);
// Number of bytes (0 to 3) at the end of text that begin a character and may be completed by more
// text.
size_t incomplete_utf8_suffix(std::string_view text);
bool is_valid_utf8(std::string_view text);
// Replaces each byte that is part of no well-formed character by U+FFFD; returns how many there
// were. A text without any is not copied.
int64_t sanitize_utf8(std::string& text);

}  // namespace quest
