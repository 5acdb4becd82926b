#include "quest/text/utf8.h"

#include <array>

#include <gtest/gtest.h>

namespace quest {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

// The definition itself, independent of the table in utf8.cpp.
std::string encode_code_point(uint32_t c) {
  std::string s;
  if (c < 0x80) {
    s += static_cast<char>(c);
  } else if (c < 0x800) {
    s += static_cast<char>(0xC0 | (c >> 6));
    s += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    s += static_cast<char>(0xE0 | (c >> 12));
    s += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    s += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    s += static_cast<char>(0xF0 | (c >> 18));
    s += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    s += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    s += static_cast<char>(0x80 | (c & 0x3F));
  }
  return s;
}

TEST(Utf8, AcceptsExactlyTheCodePointsOfUnicode) {
  for (uint32_t c = 0; c < 0x120000; ++c) {
    const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    const bool expected = !surrogate && c <= 0x10FFFF;
    const std::string s = encode_code_point(c);
    ASSERT_EQ(utf8_character_length(s), expected ? static_cast<int>(s.size()) : 0) << c;
  }
}

TEST(Utf8, RefusesOverlongForms) {
  for (const char* bad :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xF0\x80\x80\x80",
        "\xF0\x8F\xBF\xBF", "\xF5\x80\x80\x80", "\xFF", "\x80"}) {
    EXPECT_EQ(utf8_character_length(bad), 0) << bad;
    EXPECT_FALSE(is_valid_utf8(bad));
  }
  EXPECT_EQ(utf8_character_length(""), 0);
}

TEST(Utf8, HoldsBackOnlyWhatMayBecomeACharacter) {
  EXPECT_EQ(incomplete_utf8_suffix(""), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("abc"), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("abc\xC3"), 1u);
  EXPECT_EQ(incomplete_utf8_suffix("abc\xC3\xA4"), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("\xE2\x82"), 2u);
  EXPECT_EQ(incomplete_utf8_suffix("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(incomplete_utf8_suffix("\xF0\x9F\x98\x80"), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("\xED\xA0"), 0u);  // only a surrogate could follow
  EXPECT_EQ(incomplete_utf8_suffix("\x80\x80"), 0u);
  EXPECT_EQ(incomplete_utf8_suffix("\xC0"), 0u);
}

TEST(Utf8, ReplacesEachBadByteOnce) {
  std::string text =
      "a\xFF"
      "b\xE2\x82"
      "c\xF0\x9F\x98\x80\xC3";
  EXPECT_EQ(sanitize_utf8(text), 4);
  const std::string r = kReplacement;
  EXPECT_EQ(text, "a" + r + "b" + r + r + "c\xF0\x9F\x98\x80" + r);
  EXPECT_TRUE(is_valid_utf8(text));
  EXPECT_EQ(sanitize_utf8(text), 0);
}

}  // namespace
}  // namespace quest
