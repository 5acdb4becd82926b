// The arrows of ARCHITECTURE.md hold: in every #include "quest/..." line and in the link lists of
// CMakeLists.txt. Nothing above the torch line includes a header of torch.
#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

struct Rooms {
  std::map<std::string, std::set<std::string>> arrows;
  std::set<std::string> below_torch_line;
  std::vector<std::string> order;
};

std::set<std::string> words(const std::string& text) {
  std::istringstream in(text);
  std::set<std::string> result;
  for (std::string word; in >> word;) result.insert(word);
  return result;
}

const fs::path& source_dir() {
  static const fs::path path = QUEST_SOURCE_DIR;
  return path;
}

// The block ```arrows of ARCHITECTURE.md.
const Rooms& documented_rooms() {
  static const Rooms rooms = [] {
    Rooms result;
    std::istringstream in(read_file(source_dir() / "ARCHITECTURE.md"));
    bool inside = false, below = false;
    for (std::string line; std::getline(in, line);) {
      if (line == "```arrows") {
        inside = true;
      } else if (inside && line == "```") {
        break;
      } else if (inside && line == "-- torch line --") {
        below = true;
      } else if (inside) {
        const size_t arrow = line.find(" ->");
        EXPECT_NE(arrow, std::string::npos) << "ARCHITECTURE.md: not an arrow: " << line;
        if (arrow == std::string::npos) continue;
        const std::string room = line.substr(0, arrow);
        result.arrows[room] = words(line.substr(arrow + 3));
        result.order.push_back(room);
        if (below) result.below_torch_line.insert(room);
      }
    }
    return result;
  }();
  return rooms;
}

std::string room_of(const fs::path& file) {
  return (*fs::relative(file, source_dir() / "quest").begin()).string();
}

std::vector<fs::path> sources_below(const fs::path& folder) {
  static const std::set<std::string> kExtensions = {".h", ".cpp", ".cu", ".cuh"};
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && kExtensions.count(entry.path().extension().string()) != 0) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// The path of each include of a file, without brackets or quotes.
std::vector<std::string> includes_of(const fs::path& file) {
  static const std::regex kInclude(R"(^\s*#\s*include\s*["<]([^">]+)[">])");
  std::vector<std::string> result;
  std::istringstream in(read_file(file));
  for (std::string line; std::getline(in, line);) {
    std::smatch match;
    if (std::regex_search(line, match, kInclude)) result.push_back(match[1]);
  }
  return result;
}

bool is_torch_header(const std::string& include) {
  static const std::regex kTorch(R"(^(torch|ATen|c10|caffe2)/.*)");
  return std::regex_match(include, kTorch);
}

// Empty, or what is wrong with one include.
std::string complaint(const std::string& room, const std::string& include) {
  const Rooms& rooms = documented_rooms();
  const bool is_program = room == "cli";
  if (is_torch_header(include)) {
    return is_program || rooms.below_torch_line.count(room) != 0
               ? ""
               : "a room above the torch line includes " + include;
  }
  if (include.rfind("quest/", 0) != 0) return "";
  const std::string target = include.substr(6, include.find('/', 6) - 6);
  if (is_program || target == room || rooms.arrows.at(room).count(target) != 0) return "";
  return "no arrow " + room + " -> " + target + " (includes " + include + ")";
}

TEST(Layering, DocumentNamesEveryRoomAndArrowsPointBack) {
  const Rooms& rooms = documented_rooms();
  ASSERT_GE(rooms.order.size(), 10u) << "the block of arrows was not found in ARCHITECTURE.md";
  ASSERT_FALSE(rooms.below_torch_line.empty());
  for (const auto& entry : fs::directory_iterator(source_dir() / "quest")) {
    const std::string room = entry.path().filename().string();
    if (entry.is_directory() && room != "cli") {
      EXPECT_TRUE(rooms.arrows.count(room)) << "room quest/" << room << " has no line of arrows";
    }
  }
  // Every arrow points to a line above its own: no cycles, and nothing above the line points below.
  std::set<std::string> seen;
  for (const std::string& room : rooms.order) {
    for (const std::string& target : rooms.arrows.at(room)) {
      EXPECT_TRUE(seen.count(target)) << room << " -> " << target << " does not point back";
    }
    seen.insert(room);
  }
}

TEST(Layering, EveryIncludeFollowsAnArrow) {
  int checked = 0;
  for (const fs::path& file : sources_below(source_dir() / "quest")) {
    const std::string room = room_of(file);
    ASSERT_TRUE(room == "cli" || documented_rooms().arrows.count(room)) << file;
    for (const std::string& include : includes_of(file)) {
      EXPECT_EQ(complaint(room, include), "") << fs::relative(file, source_dir());
      checked += include.rfind("quest/", 0) == 0;
    }
  }
  EXPECT_GT(checked, 100) << "too few includes were found for the reader to be right";
}

TEST(Layering, ComplaintsAreFound) {
  EXPECT_NE(complaint("quant", "quest/kernels/rope.h"), "");
  EXPECT_NE(complaint("base", "torch/torch.h"), "");
  EXPECT_NE(complaint("kernels", "ATen/ATen.h"), "");
  EXPECT_EQ(complaint("ops", "ATen/ATen.h"), "");
  EXPECT_EQ(complaint("kernels", "quest/quant/quantizer.h"), "");
}

// The DEPS of each quest_room(...) of CMakeLists.txt are the arrows of the document. A part of a
// room (FOLDER room) may have fewer, and no torch; the room links its part.
TEST(Layering, LinkListsAreTheArrows) {
  const std::string cmake = read_file(source_dir() / "CMakeLists.txt");
  static const std::regex kRoom(R"(quest_room\((\w+)([^)]*)\))");
  static const std::regex kDeps(R"(\bDEPS((\s+[a-z_]+)*))");
  static const std::regex kFolder(R"(\bFOLDER\s+(\w+))");
  std::set<std::string> linked, parts;
  for (std::sregex_iterator it(cmake.begin(), cmake.end(), kRoom), end; it != end; ++it) {
    const std::string room = (*it)[1], arguments = (*it)[2];
    std::smatch deps, folder;
    std::set<std::string> listed =
        std::regex_search(arguments, deps, kDeps) ? words(deps[1]) : std::set<std::string>();
    if (std::regex_search(arguments, folder, kFolder)) {
      for (const std::string& target : listed) {
        EXPECT_TRUE(documented_rooms().arrows.at(folder[1]).count(target)) << room << " " << target;
      }
      EXPECT_EQ(words(arguments).count("TORCH"), 0u) << room;
      parts.insert(room);
      continue;
    }
    for (const std::string& part : parts) listed.erase(part);
    linked.insert(room);
    ASSERT_TRUE(documented_rooms().arrows.count(room)) << room;
    EXPECT_EQ(listed, documented_rooms().arrows.at(room)) << room;
    EXPECT_EQ(words(arguments).count("TORCH"), documented_rooms().below_torch_line.count(room))
        << room << " is on the wrong side of the torch line";
  }
  EXPECT_EQ(linked.size(), documented_rooms().order.size());
}

}  // namespace
}  // namespace quest
