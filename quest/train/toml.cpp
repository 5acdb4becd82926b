#include "quest/train/toml.h"

// toml++ 3.3 asserts (in clang's release builds: assumes) what it checks right after, that a
// table's name begins with a character of a name, and says of some characters outside of quotes
// that they cannot be there: both are undefined behaviour with broken text.
#undef NDEBUG
#define TOML_ASSERT(expression) static_assert(true)
#include <toml++/impl/forward_declarations.h>
#pragma push_macro("TOML_UNREACHABLE")
#undef TOML_UNREACHABLE
#define TOML_UNREACHABLE return false
#include <toml++/impl/unicode.h>
#pragma pop_macro("TOML_UNREACHABLE")

#include <algorithm>
#include <toml++/toml.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"

namespace quest::train {
namespace {

// Walks the library's tree and lists its values under their full dotted names.
class Flattener {
 public:
  explicit Flattener(const std::string& name) : name_(name) {}

  void add_table(const toml::table& table, const std::string& prefix) {
    for (auto&& [part, node] : table) {
      const std::string_view text = part;
      check(node, text.find('.') == text.npos,
            "the name \"{}\" holds a dot: dotted names are written without quotes", text);
      const std::string key = prefix + std::string(text);
      const toml::table* inner = node.as_table();
      if (inner == nullptr) {
        entries_.push_back({node.source().begin, {key, value_of(node, key), place_of(node)}});
        continue;
      }
      check(node, !inner->is_inline(), "'{}': inline tables are not used by any setting", key);
      add_table(*inner, key + ".");
    }
  }

  // In the order of the text: the library sorts by name.
  TomlTable take() {
    std::sort(entries_.begin(), entries_.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    TomlTable out;
    for (auto& [position, entry] : entries_) out.push_back(std::move(entry));
    return out;
  }

 private:
  std::string place_of(const toml::node& node) const {
    return fmt::format("{}:{}", name_, node.source().begin.line);
  }

  template <class... Args>
  void check(const toml::node& node, bool good, fmt::format_string<Args...> text,
             Args&&... args) const {
    QUEST_CHECK(good, ErrorKind::kUsage, "{}: {}", place_of(node),
                fmt::format(text, std::forward<Args>(args)...));
  }

  TomlValue value_of(const toml::node& node, const std::string& key) const {
    if (const auto* flag = node.as_boolean()) return flag->get();
    if (const auto* integer = node.as_integer()) return integer->get();
    if (const auto* real = node.as_floating_point()) return real->get();
    check(node, !node.is_array(), "'{}': arrays are not used by any setting", key);
    const auto* text = node.as_string();
    check(node, text != nullptr, "'{}': dates and times are not used by any setting", key);
    return text->get();
  }

  const std::string& name_;
  std::vector<std::pair<toml::source_position, TomlEntry>> entries_;
};

// Tables nest as deep as a key has dots, and the library frees them recursively: a key of nothing
// but dots must not use up the stack.
void check_depth(std::string_view text, const std::string& name) {
  constexpr int kMaxDots = 1000;  // in one line
  int64_t line = 1;
  int dots = 0;
  for (const char c : text) {
    if (c == '\n') {
      ++line;
      dots = 0;
    } else if (c == '.') {
      QUEST_CHECK(++dots <= kMaxDots, ErrorKind::kUsage,
                  "{}:{}: more than {} dots in a line: this is no file of settings", name, line,
                  kMaxDots);
    }
  }
}

}  // namespace

TomlTable parse_toml(std::string_view text, const std::string& name) {
  check_depth(text, name);
  try {
    Flattener flat(name);
    flat.add_table(toml::parse(text), "");
    return flat.take();
  } catch (const toml::parse_error& error) {
    QUEST_THROW(ErrorKind::kUsage, "{}:{}: {} (a value is true, false, a number or text in quotes)",
                name, error.source().begin.line, error.description());
  }
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
