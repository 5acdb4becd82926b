#include "quest/train/toml.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

TEST(Toml, ReadsInTheOrderOfTheText) {
  const TomlTable table = parse_toml(
      "# a comment\n"
      "top = 1_000\r\n"
      "\n"
      "[a.b]  # section\n"
      "text = \"x # not a comment, y\\n\\\"\\u00e9\" # comment\n"
      "raw='C:\\dir'\n"
      "x.y = -2.5e-3\n"
      "on = true\n"
      "big = inf\n"
      "lines = \"\"\"\nx\ny\"\"\"",
      "t.toml");
  ASSERT_EQ(table.size(), 7u);
  EXPECT_EQ(table[0].key, "top");
  EXPECT_EQ(std::get<int64_t>(table[0].value), 1000);
  EXPECT_EQ(table[1].key, "a.b.text");
  EXPECT_EQ(std::get<std::string>(table[1].value), "x # not a comment, y\n\"\xc3\xa9");
  EXPECT_EQ(table[1].place, "t.toml:5");
  EXPECT_EQ(std::get<std::string>(table[2].value), "C:\\dir");
  EXPECT_EQ(table[3].key, "a.b.x.y");
  EXPECT_EQ(std::get<double>(table[3].value), -2.5e-3);
  EXPECT_TRUE(std::get<bool>(table[4].value));
  EXPECT_TRUE(std::isinf(std::get<double>(table[5].value)));
  EXPECT_EQ(std::get<std::string>(table[6].value), "x\ny");
}

TEST(Toml, RefusesWhatItDoesNotUnderstand) {
  const struct {
    const char* text;
    const char* message;
  } cases[] = {
      {"a = 1\na = 2\n", "t:2: Error while parsing key-value pair: cannot redefine existing"},
      {"[s]\n[s]\n", "t:2: Error while parsing table header: cannot redefine existing table 's'"},
      {"a.b = 1\n[a]\nb = 2\n", "t:2: Error while parsing table header: cannot redefine"},
      {"a.b = 1\n\"a.b\" = 2\n", "t:2: the name \"a.b\" holds a dot"},
      {"a = \"x\n", "t:1: Error while parsing string"},
      {"a = 1\nb = x\n",
       "t:2: Error while parsing value: could not determine value type (a value "
       "is true, false, a number or text in quotes)"},
      {"a = 1 2\n", "expected a comment or whitespace, saw '2'"},
      {"a\n", "expected '='"},
      {"a =\n", "expected value"},
      {"= 1\n", "expected keys"},
      {"[a\nb = 1\n", "expected ']'"},
      {"[ = ]\n", "expected bare key starting character"},
      {"a = 1\u0317\n", "t:1"},
      {"x = 1\n[s]\na = [1, 2]\n", "t:3: 's.a': arrays are not used by any setting"},
      {"[[a]]\nb = 1\n", "t:1: 'a': arrays"},
      {"a = {b = 1}\n", "t:1: 'a': inline tables are not used"},
      {"a = 1__0\n", "underscores"},
      {"a = 99999999999999999999\n", "64 bits"},
      {"a = 1e999\n", "could not be interpreted"},
      {"a = \"\\x\"\n", "escape sequence '\\x'"},
      {"a = \"\\ud800\"\n", "surrogates"},
      {"a = \"\xff\"\n", "utf-8"},
      {"a = 2026-01-01\n", "t:1: 'a': dates and times are not used"},
      {"a = 12:00:00\n", "t:1: 'a': dates and times are not used"},
  };
  for (const auto& c : cases) {
    EXPECT_QUEST_ERROR(parse_toml(c.text, "t"), ErrorKind::kUsage, c.message);
  }
  EXPECT_QUEST_ERROR(parse_toml(std::string("a = 1\0\n", 7), "t"), ErrorKind::kUsage, "u0000");
  // Deep nesting must not use up the stack.
  std::string deep = "x = 1\n";
  for (int k = 0; k < 200000; ++k) deep += "a.";
  EXPECT_QUEST_ERROR(parse_toml(deep + "a = 1\n", "t"), ErrorKind::kUsage,
                     "t:2: more than 1000 dots");
  EXPECT_QUEST_ERROR(parse_toml_file("/no/such/file.toml"), ErrorKind::kIo, "/no/such/file.toml");
}

TEST(Toml, ValuesComeBackExactly) {
  const TomlValue values[] = {true,
                              false,
                              int64_t{0},
                              std::numeric_limits<int64_t>::min(),
                              0.1,
                              1e-300,
                              3.0,
                              1e22,
                              std::numeric_limits<double>::denorm_min(),
                              std::numeric_limits<double>::infinity(),
                              std::string("a \"b\" \\ # , \t\n\x01 \xc3\xa9"),
                              std::string()};
  for (const TomlValue& value : values) {
    const std::string text = "k = " + toml_text(value);
    const TomlTable table = parse_toml(text, "t");
    ASSERT_EQ(table.size(), 1u) << text;
    EXPECT_TRUE(table[0].value == value) << text;
  }
}

// Every bit of a valid file flipped: it parses or throws quest::Error, nothing else.
TEST(Toml, SurvivesBitFlips) {
  const std::string text = "[a]\nb = \"c\\u00e9\" # d\ne.f = -1.5e3\ng = true\n";
  int errors = 0;
  for (size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string broken = text;
    broken[bit / 8] = static_cast<char>(broken[bit / 8] ^ (1 << (bit % 8)));
    try {
      parse_toml(broken, "t");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      ++errors;
    }
  }
  EXPECT_GT(errors, 100);
}

}  // namespace
}  // namespace quest::train
