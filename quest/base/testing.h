// Help for tests: temporary folders and small files. Tests only; header only.
//
//   testing::TemporaryFolder folder;                       // in the system's temporary directory
//   auto path = folder.write("a/b.txt", "content");        // makes a/
//   EXPECT_QUEST_ERROR(load(path), ErrorKind::kData, "b.txt");
//
// Inside namespace quest, `testing` means this namespace: write ::testing for GoogleTest's own.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "quest/base/error.h"

namespace quest::testing {

// A fresh folder, removed with all its content by the destructor.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "quest-test-XXXXXX").string();
    QUEST_CHECK(mkdtemp(pattern.data()) != nullptr, ErrorKind::kIo,
                "cannot create a temporary folder {}", pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

  // Writes a file (and the folders above it) and returns its path.
  std::filesystem::path write(std::string_view name, std::string_view content) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream out(file, std::ios::binary | std::ios::trunc);
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    out.flush();
    QUEST_CHECK(out.good(), ErrorKind::kIo, "cannot write {}", file.string());
    return file;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace quest::testing

// The statement throws quest::Error of this kind and its message contains the text.
#define EXPECT_QUEST_ERROR(statement, expected_kind, text)                     \
  do {                                                                         \
    try {                                                                      \
      statement;                                                               \
      ADD_FAILURE() << #statement " did not throw";                            \
    } catch (const ::quest::Error& quest_error) {                              \
      EXPECT_EQ(::quest::error_kind_name(quest_error.kind()),                  \
                ::quest::error_kind_name(expected_kind))                       \
          << quest_error.what();                                               \
      EXPECT_NE(std::string(quest_error.what()).find(text), std::string::npos) \
          << "message: " << quest_error.what() << "\nlacks: " << (text);       \
    }                                                                          \
  } while (false)
