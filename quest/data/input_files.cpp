#include "quest/data/input_files.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <glob.h>
#include <set>
#include <string_view>

#include "quest/base/error.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

bool has_text_name(std::string_view name) {
  static constexpr std::array<std::string_view, 5> kEndings = {".txt", ".text", ".md", ".jsonl",
                                                               ".ndjson"};
  name = without_compression_suffix(name);
  return std::any_of(kEndings.begin(), kEndings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

std::vector<std::string> files_below(const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  const auto options = fs::directory_options::follow_directory_symlink;
  for (auto it = fs::recursive_directory_iterator(folder, options, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    std::error_code ignored;  // a dangling link is no file
    if (it->is_regular_file(ignored) && has_text_name(it->path().filename().string())) {
      files.push_back(it->path().string());
    }
  }
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot read the folder {}: {}", folder.string(),
              error.message());
  QUEST_CHECK(
      !files.empty(), ErrorKind::kIo,
      "the folder {} holds no text files (.txt, .text, .md, .jsonl, .ndjson, also .gz, .zst)",
      folder.string());
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> matches_of(const std::string& pattern) {
  glob_t found{};
  const int result = ::glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<std::string> names(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  QUEST_CHECK(result == 0 || result == GLOB_NOMATCH, ErrorKind::kIo, "cannot expand {}", pattern);
  QUEST_CHECK(!names.empty(), ErrorKind::kIo, "nothing matches {}", pattern);
  return names;
}

}  // namespace

std::string_view without_compression_suffix(std::string_view name) {
  if (name.ends_with(".gz"))
    name.remove_suffix(3);
  else if (name.ends_with(".zst"))
    name.remove_suffix(4);
  return name;
}

bool is_jsonl_name(std::string_view name) {
  name = without_compression_suffix(name);
  return name.ends_with(".jsonl") || name.ends_with(".ndjson");
}

std::vector<std::string> find_input_files(const std::vector<std::string>& inputs) {
  QUEST_CHECK(!inputs.empty(), ErrorKind::kUsage,
              "no text is named; give files, folders, globs or - for standard input");
  std::vector<std::string> files;
  std::set<std::string> known;
  const auto add_file = [&](const std::string& file) {
    std::error_code error;
    const fs::path canonical = file == "-" ? fs::path("-") : fs::canonical(file, error);
    if (known.insert(error ? file : canonical.string()).second) files.push_back(file);
  };
  const auto add_path = [&](const std::string& name) {
    if (!fs::is_directory(name)) return add_file(name);
    for (const std::string& file : files_below(name)) add_file(file);
  };
  for (const std::string& input : inputs) {
    std::error_code error;
    if (input == "-" || fs::exists(input, error)) {
      add_path(input);
      continue;
    }
    QUEST_CHECK(input.find_first_of("*?[") != std::string::npos, ErrorKind::kIo,
                "there is no file or folder {}", input);
    for (const std::string& name : matches_of(input)) add_path(name);
  }
  return files;
}

}  // namespace quest
