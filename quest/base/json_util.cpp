#include "quest/base/json_util.h"

#include <limits>
#include <set>
#include <type_traits>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"

namespace quest {

namespace {

// Follows the parser and refuses what a DOM would hide (duplicate keys) or suffer from (depth).
class StrictnessGuard {
 public:
  explicit StrictnessGuard(std::string_view where) : where_(where) {}

  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
        keys_.emplace_back();
        [[fallthrough]];
      case Json::parse_event_t::array_start:
        QUEST_CHECK(depth < kMaxJsonDepth, ErrorKind::kData, "{}: JSON is nested more than {} deep",
                    where_, kMaxJsonDepth);
        break;
      case Json::parse_event_t::object_end:
        keys_.pop_back();
        break;
      case Json::parse_event_t::key:
        QUEST_CHECK(keys_.back().insert(parsed.get_ref<const std::string&>()).second,
                    ErrorKind::kData, "{}: JSON has the key {} twice in one object", where_,
                    parsed.dump(-1, ' ', true, Json::error_handler_t::replace));
        break;
      default:
        break;
    }
    return true;
  }

 private:
  std::string_view where_;
  std::vector<std::set<std::string>> keys_;
};

// "[json.exception.parse_error.101] parse error at ..." without the bracket.
std::string reason_of(const Json::exception& error) {
  const std::string text = error.what();
  const size_t end = text.find("] ");
  return end == std::string::npos ? text : text.substr(end + 2);
}

template <class T>
constexpr const char* type_text() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_integral_v<T>) return "a whole number";
  if constexpr (std::is_floating_point_v<T>) return "a number";
  if constexpr (std::is_same_v<T, std::string>) return "a string";
  return "a list";
}

template <class T>
bool convert(const Json& value, T& out) {
  if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) return false;
    out = value.get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    if (value.is_number_unsigned()) {
      const auto number = value.get<uint64_t>();
      if (number > static_cast<uint64_t>(std::numeric_limits<T>::max())) return false;
      out = static_cast<T>(number);
    } else if (value.is_number_integer() && std::is_signed_v<T>) {
      const auto number = value.get<int64_t>();
      if (number < static_cast<int64_t>(std::numeric_limits<T>::min())) return false;
      out = static_cast<T>(number);
    } else {
      return false;
    }
  } else if constexpr (std::is_same_v<T, double>) {
    if (!value.is_number()) return false;
    out = value.get<double>();
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!value.is_string()) return false;
    out = value.get<std::string>();
  } else {
    if (!value.is_array()) return false;
    out.resize(value.size());
    for (size_t i = 0; i < value.size(); ++i) {
      if (!convert(value[i], out[i])) return false;
    }
  }
  return true;
}

std::string shortened(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

template <class T>
T convert_member(const Json& value, std::string_view key, std::string_view where) {
  T out{};
  QUEST_CHECK(convert(value, out), ErrorKind::kData, "{}: \"{}\" is {}, expected {} in range",
              where, key, shortened(value), type_text<T>());
  return out;
}

const Json* find_member(const Json& object, std::string_view key, std::string_view where) {
  QUEST_CHECK(object.is_object(), ErrorKind::kData,
              "{}: expected a JSON object with \"{}\", found {}", where, key, shortened(object));
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where) {
  // The parser takes a NUL for the end of its input; JSON allows none anywhere.
  QUEST_CHECK(text.find('\0') == std::string_view::npos, ErrorKind::kData,
              "{}: not JSON: a NUL byte at offset {}", where, text.find('\0'));
  try {
    return Json::parse(text.begin(), text.end(), StrictnessGuard(where));
  } catch (const Json::exception& error) {
    QUEST_THROW(ErrorKind::kData, "{}: not valid JSON: {}", where, reason_of(error));
  }
}

Json read_json(const std::filesystem::path& path) {
  return parse_json(read_file(path), path.string());
}

template <class T>
T json_get(const Json& object, std::string_view key, std::string_view where) {
  const Json* member = find_member(object, key, where);
  QUEST_CHECK(member != nullptr, ErrorKind::kData, "{}: \"{}\" is missing", where, key);
  return convert_member<T>(*member, key, where);
}

template <class T>
T json_get_or(const Json& object, std::string_view key, T fallback, std::string_view where) {
  const Json* member = find_member(object, key, where);
  if (member == nullptr || member->is_null()) return fallback;
  return convert_member<T>(*member, key, where);
}

#define QUEST_INSTANTIATE(T)                                               \
  template T json_get<T>(const Json&, std::string_view, std::string_view); \
  template T json_get_or<T>(const Json&, std::string_view, T, std::string_view)
QUEST_INSTANTIATE(bool);
QUEST_INSTANTIATE(int);
QUEST_INSTANTIATE(int64_t);
QUEST_INSTANTIATE(uint64_t);
QUEST_INSTANTIATE(double);
QUEST_INSTANTIATE(std::string);
QUEST_INSTANTIATE(std::vector<int64_t>);
QUEST_INSTANTIATE(std::vector<double>);
QUEST_INSTANTIATE(std::vector<std::string>);
#undef QUEST_INSTANTIATE

}  // namespace quest
