#include "quest/train/toml.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"

namespace quest::train {
namespace {

bool is_bare_key_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-';
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

// One line of the file at a time: nothing in the subset spans lines.
class LineParser {
 public:
  LineParser(std::string_view line, std::string place) : line_(line), place_(std::move(place)) {}

  bool at_end() {
    skip_spaces();
    return at_ >= line_.size() || line_[at_] == '#';
  }
  bool take(char c) {
    skip_spaces();
    if (at_ < line_.size() && line_[at_] == c) {
      ++at_;
      return true;
    }
    return false;
  }
  void expect_end() {
    if (!at_end()) fail("unexpected text '{}' at the end", line_.substr(at_));
  }

  // a.b."c d" -> "a.b.c d"
  std::string key() {
    std::string name;
    do {
      skip_spaces();
      std::string part;
      if (at_ < line_.size() && (line_[at_] == '"' || line_[at_] == '\'')) {
        part = string();
      } else {
        while (at_ < line_.size() && is_bare_key_char(line_[at_])) part += line_[at_++];
      }
      if (part.empty()) fail("a key is expected in '{}'", line_);
      name += name.empty() ? part : "." + part;
    } while (take('.'));
    return name;
  }

  TomlValue value() {
    skip_spaces();
    if (at_end()) fail("the value after '=' is missing");
    const char c = line_[at_];
    if (c == '"' || c == '\'') return string();
    if (c == '[' || c == '{') fail("arrays and inline tables are not used by any setting");
    const size_t start = at_;
    while (at_ < line_.size() && line_[at_] != '#' && line_[at_] != ' ' && line_[at_] != '\t')
      ++at_;
    const std::string_view word = line_.substr(start, at_ - start);
    if (word == "true") return true;
    if (word == "false") return false;
    return number(word);
  }

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) const {
    QUEST_THROW(ErrorKind::kUsage, "{}: {}", place_,
                fmt::format(text, std::forward<Args>(args)...));
  }

 private:
  void skip_spaces() {
    while (at_ < line_.size() && (line_[at_] == ' ' || line_[at_] == '\t')) ++at_;
  }

  std::string string() {
    const char quote = line_[at_++];
    if (line_.substr(at_, 2) == std::string(2, quote)) fail("multi-line strings are not supported");
    std::string out;
    for (;;) {
      if (at_ >= line_.size()) fail("the string is not closed by {}", quote);
      const char c = line_[at_++];
      if (c == quote) return out;
      if (c != '\\' || quote == '\'') {
        out += c;
        continue;
      }
      escape(out);
    }
  }

  void escape(std::string& out) {
    if (at_ >= line_.size()) fail("the string is not closed");
    const char c = line_[at_++];
    static constexpr std::string_view kLetters = "btnfr\"\\";
    static constexpr std::string_view kMeanings = "\b\t\n\f\r\"\\";
    if (const size_t k = kLetters.find(c); k != std::string_view::npos) {
      out += kMeanings[k];
      return;
    }
    const size_t digits = c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t code = 0;
    const std::string_view text = line_.substr(at_, digits);
    const auto result = std::from_chars(text.data(), text.data() + text.size(), code, 16);
    if (digits == 0 || text.size() != digits || result.ec != std::errc() ||
        result.ptr != text.data() + text.size() || code > 0x10FFFF ||
        (code >= 0xD800 && code < 0xE000)) {
      fail("unknown escape '\\{}' in a string (a backslash is written \\\\)", c);
    }
    at_ += digits;
    append_utf8(out, code);
  }

  TomlValue number(std::string_view word) {
    std::string digits;
    for (size_t k = 0; k < word.size(); ++k) {
      if (word[k] != '_') {
        digits += word[k];
      } else if (k == 0 || k + 1 == word.size() || !std::isdigit(word[k - 1]) ||
                 !std::isdigit(word[k + 1])) {
        fail("'{}' is no number: '_' may only stand between digits", word);
      }
    }
    std::string_view text = digits;
    if (text.starts_with('+')) text.remove_prefix(1);
    const char* const end = text.data() + text.size();
    int64_t integer = 0;
    if (const auto r = std::from_chars(text.data(), end, integer);
        r.ec == std::errc() && r.ptr == end) {
      return integer;
    }
    double real = 0;
    if (const auto r = std::from_chars(text.data(), end, real);
        r.ec == std::errc() && r.ptr == end && !text.empty()) {
      return real;
    }
    fail("'{}' is no value: a string needs quotes, others are true, false or a number", word);
  }

  std::string_view line_;
  std::string place_;
  size_t at_ = 0;
};

}  // namespace

TomlTable parse_toml(std::string_view text, const std::string& name) {
  TomlTable table;
  std::set<std::string> keys;
  std::set<std::string> sections;
  std::string section;
  int64_t number = 0;
  while (!text.empty()) {
    const size_t length = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, length);
    text.remove_prefix(std::min(length + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    const std::string place = fmt::format("{}:{}", name, ++number);
    LineParser parser(line, place);
    for (const char c : line) {
      if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) {
        parser.fail("control character 0x{:02x}: this is no TOML text",
                    static_cast<unsigned char>(c));
      }
    }
    if (parser.at_end()) continue;
    if (parser.take('[')) {
      if (parser.take('[')) parser.fail("arrays of tables are not used by any setting");
      section = parser.key();
      if (!parser.take(']')) parser.fail("']' is missing after '[{}'", section);
      parser.expect_end();
      if (!sections.insert(section).second) parser.fail("section [{}] is given twice", section);
      continue;
    }
    std::string key = parser.key();
    if (!section.empty()) key = section + "." + key;
    if (!parser.take('=')) parser.fail("'=' is missing after '{}'", key);
    TomlValue value = parser.value();
    parser.expect_end();
    if (!keys.insert(key).second) parser.fail("'{}' is given twice", key);
    table.push_back({std::move(key), std::move(value), place});
  }
  return table;
}

TomlTable parse_toml_file(const std::filesystem::path& path) {
  return parse_toml(read_file(path), path.string());
}

std::string toml_text(const TomlValue& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* integer = std::get_if<int64_t>(&value)) return fmt::format("{}", *integer);
  if (const auto* real = std::get_if<double>(&value)) {
    std::string text = fmt::format("{}", *real);
    if (text.find_first_of(".einf") == std::string::npos) text += ".0";
    return text;
  }
  std::string out = "\"";
  for (const char c : std::get<std::string>(value)) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace quest::train
