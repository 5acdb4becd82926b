// Links between the documents and into the tree lead somewhere.
#include <filesystem>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> documents() {
  const fs::path source = QUEST_SOURCE_DIR;
  std::vector<fs::path> files = {source / "README.md", source / "ARCHITECTURE.md",
                                 source / "CONTRIBUTING.md"};
  for (const auto& entry : fs::recursive_directory_iterator(source / "docs")) {
    if (entry.path().extension() == ".md") files.push_back(entry.path());
  }
  return files;
}

// Without what stands between lines of ```: code has brackets of its own.
std::string prose(const std::string& text) {
  std::string out;
  bool code = false;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) code = !code;
    if (!code) out += line + "\n";
  }
  return out;
}

TEST(Docs, RelativeLinksExist) {
  static const std::regex kLink(R"(\]\(([^)#\s]+)[^)]*\))");
  int checked = 0;
  for (const fs::path& file : documents()) {
    const std::string text = prose(read_file(file));
    for (std::sregex_iterator it(text.begin(), text.end(), kLink), end; it != end; ++it) {
      const std::string target = (*it)[1];
      if (target.find("://") != std::string::npos) continue;
      EXPECT_TRUE(fs::exists(file.parent_path() / target)) << file << " links to " << target;
      ++checked;
    }
  }
  EXPECT_GT(checked, 30);
}

}  // namespace
}  // namespace quest
