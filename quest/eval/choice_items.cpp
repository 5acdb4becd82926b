// Reading multiple-choice items from JSON lines.
#include <algorithm>
#include <charconv>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/white_space.h"
#include "quest/eval/multiple_choice.h"

namespace quest {

namespace {

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (size_t position = 0;;) {
    const size_t found = text.find(from, position);
    result += text.substr(position, found - position);
    if (found == std::string_view::npos) return result;
    result += to;
    position = found + from.size();
  }
}

// Every "[...]" within one line.
std::string without_brackets(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '[') {
      const size_t end = text.find_first_of("]\n", i + 1);
      if (end != std::string_view::npos && text[end] == ']') {
        i = end;
        continue;
      }
    }
    result += text[i];
  }
  return result;
}

// First letter large, all others small, as Python's str.capitalize.
std::string capitalized(std::string text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (i == 0 && c >= 'a' && c <= 'z') text[i] = static_cast<char>(c - 'a' + 'A');
    if (i > 0 && c >= 'A' && c <= 'Z') text[i] = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

int64_t label_of(const Json& line, const std::string& where) {
  if (const auto found = line.find("label"); found == line.end() || !found->is_string()) {
    return json_get<int64_t>(line, "label", where);
  }
  const auto text = json_get<std::string>(line, "label", where);
  int64_t label = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), label);
  QUEST_CHECK(
      error == std::errc() && end == text.data() + text.size(), ErrorKind::kData,
      "{}: \"label\" is \"{}\", expected the number of an ending; a test split without labels "
      "cannot be scored",
      where, text);
  return label;
}

ChoiceItem parse_item(const Json& line, ChoiceFormat format, const std::string& where) {
  ChoiceItem item;
  item.endings = json_get<std::vector<std::string>>(line, "endings", where);
  if (format == ChoiceFormat::kHellaSwag) {
    item.context = clean_hellaswag_text(json_get<std::string>(line, "activity_label", where) +
                                        ": " + json_get<std::string>(line, "ctx_a", where) + " " +
                                        capitalized(json_get<std::string>(line, "ctx_b", where)));
    for (std::string& ending : item.endings) ending = clean_hellaswag_text(ending);
  } else {
    item.context = json_get<std::string>(line, "ctx", where);
  }
  item.label = label_of(line, where);
  QUEST_CHECK(item.endings.size() >= 2, ErrorKind::kData,
              "{}: \"endings\" has {}, at least 2 are needed", where, item.endings.size());
  for (const std::string& ending : item.endings) {
    QUEST_CHECK(!ending.empty(), ErrorKind::kData, "{}: an ending is empty", where);
  }
  QUEST_CHECK(item.label >= 0 && item.label < static_cast<int64_t>(item.endings.size()),
              ErrorKind::kData, "{}: \"label\" is {}, there are {} endings", where, item.label,
              item.endings.size());
  return item;
}

}  // namespace

std::string clean_hellaswag_text(std::string_view text) {
  const std::string titled = replace_all(trimmed(text), " [title]", ". ");
  return replace_all(without_brackets(titled), "  ", " ");
}

std::vector<ChoiceItem> load_choice_items(const std::filesystem::path& path, ChoiceFormat format) {
  const std::string content = read_file(path);
  std::vector<ChoiceItem> items;
  std::string_view rest = content;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (trimmed(line).empty()) continue;
    const std::string where = fmt::format("{}: line {}", path.string(), number);
    const Json parsed = parse_json(line, where);
    QUEST_CHECK(parsed.is_object(), ErrorKind::kData, "{}: expected a JSON object", where);
    items.push_back(parse_item(parsed, format, where));
  }
  QUEST_CHECK(!items.empty(), ErrorKind::kData, "{} holds no items", path.string());
  return items;
}

}  // namespace quest
