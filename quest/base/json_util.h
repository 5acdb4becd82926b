// JSON that is not trusted: parsing and typed access whose errors name the file and the key.
//
//   const Json config = parse_json(read_file(path), path.string());
//   const int64_t hidden = json_get<int64_t>(config, "hidden_size", path.string());
//   const double theta = json_get_or<double>(config, "rope_theta", 10000.0, path.string());
//
// All errors are quest::Error (kData); `where` (a path, or "line 3 of items.jsonl") starts the
// message.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace quest {

using Json = nlohmann::json;

inline constexpr int kMaxJsonDepth = 64;

// Strict JSON in UTF-8: no comments, no text after the value, no duplicate keys in an object,
// nested at most kMaxJsonDepth deep.
Json parse_json(std::string_view text, std::string_view where);
// read_file + parse_json.
Json read_json(const std::filesystem::path& path);

// The member `key` of an object as T: bool, int, int64_t, uint64_t, double, std::string,
// std::vector<int64_t>, std::vector<double>, std::vector<std::string>. A double accepts whole
// numbers; an integer type accepts only whole numbers within its range.
template <class T>
T json_get(const Json& object, std::string_view key, std::string_view where);
// `fallback` if the key is absent or null; the wrong type is still an error.
template <class T>
T json_get_or(const Json& object, std::string_view key, T fallback, std::string_view where);

}  // namespace quest
