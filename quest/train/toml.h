// TOML files of settings, read by toml++ (TOML 1.0) and flattened to full dotted names.
//
// Strict: what TOML forbids (duplicate keys, unterminated strings, stray text after a value) and
// what no setting uses (arrays, inline tables, dates) are errors with file and line. (CLI11's own
// reader cuts strings at '#', splits them at commas and takes a key twice.)
//
//   TomlTable table = parse_toml("[optimizer]\nlr = 1e-3\n", "demo.toml");
//   std::get<double>(table[0].value);       // table[0].key == "optimizer.lr"
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace quest::train {

using TomlValue = std::variant<bool, int64_t, double, std::string>;

struct TomlEntry {
  std::string key;  // full dotted name
  TomlValue value;
  std::string place;  // "demo.toml:12"
};
using TomlTable = std::vector<TomlEntry>;

// Entries in the order of the text. Throws kUsage with "name:line: ..." for the errors above.
TomlTable parse_toml(std::string_view text, const std::string& name);
// Throws kIo if the file cannot be read.
TomlTable parse_toml_file(const std::filesystem::path& path);

// The value as TOML text; doubles with as many digits as needed to read them back exactly.
std::string toml_text(const TomlValue& value);

}  // namespace quest::train
