#include "quest/text/utf8.h"

namespace quest {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// What the first byte says about a character: its length and the range of its second byte (RFC
// 3629, section 4). Length 0: no character begins with this byte.
struct Lead {
  int length;
  unsigned char second_min;
  unsigned char second_max;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// How many bytes at the front of text (at most the character's length) fit together.
int matching_bytes(std::string_view text, const Lead& lead) {
  int matched = 1;
  for (; matched < lead.length && static_cast<size_t>(matched) < text.size(); ++matched) {
    const auto byte = static_cast<unsigned char>(text[static_cast<size_t>(matched)]);
    const unsigned char low = matched == 1 ? lead.second_min : 0x80;
    const unsigned char high = matched == 1 ? lead.second_max : 0xBF;
    if (byte < low || byte > high) break;
  }
  return matched;
}

// Length of the well-formed text at the front.
size_t valid_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const int length = utf8_character_length(text.substr(i));
    if (length == 0) break;
    i += static_cast<size_t>(length);
  }
  return i;
}

}  // namespace

int utf8_character_length(std::string_view text) {
  if (text.empty()) return 0;
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  return lead.length != 0 && matching_bytes(text, lead) == lead.length ? lead.length : 0;
}

size_t incomplete_utf8_suffix(std::string_view text) {
  for (size_t length = 1; length <= 3 && length <= text.size(); ++length) {
    const std::string_view tail = text.substr(text.size() - length);
    const Lead lead = lead_of(static_cast<unsigned char>(tail[0]));
    if (lead.length > static_cast<int>(length) &&
        matching_bytes(tail, lead) == static_cast<int>(length)) {
      return length;
    }
    // A byte that is no continuation ends the search: what follows it cannot begin earlier.
    if ((static_cast<unsigned char>(tail[0]) & 0xC0) != 0x80) break;
  }
  return 0;
}

bool is_valid_utf8(std::string_view text) { return valid_prefix(text) == text.size(); }

int64_t sanitize_utf8(std::string& text) {
  size_t i = valid_prefix(text);
  if (i == text.size()) return 0;
  int64_t replaced = 0;
  std::string out = text.substr(0, i);
  while (i < text.size()) {
    const std::string_view rest = std::string_view(text).substr(i);
    const size_t valid = valid_prefix(rest);
    out += rest.substr(0, valid);
    i += valid;
    if (i < text.size()) {
      out += kReplacement;
      ++i;
      ++replaced;
    }
  }
  text = std::move(out);
  return replaced;
}

}  // namespace quest
