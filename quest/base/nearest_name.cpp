#include "quest/base/nearest_name.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace quest {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t above = row[j + 1];
      row[j + 1] = std::min({above + 1, row[j] + 1, diagonal + (a[i] == b[j] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

size_t name_distance(std::string_view given, std::string_view name) {
  size_t best = edit_distance(given, name);
  for (size_t end = name.find('_'); end != name.npos; end = name.find('_', end + 1)) {
    best = std::min(best, 1 + edit_distance(given, name.substr(0, end)));
  }
  return best;
}

std::string_view last_part(std::string_view key) { return key.substr(key.rfind('.') + 1); }

size_t key_distance(std::string_view given, std::string_view key) {
  const std::string_view name = last_part(key), given_name = last_part(given);
  const size_t in_table = name_distance(given_name, name);
  const std::string_view table = key.substr(0, key.size() - name.size());
  if (given.substr(0, given.size() - given_name.size()) == table) return in_table;
  return std::min(edit_distance(given, key), 2 + in_table);
}

}  // namespace quest
