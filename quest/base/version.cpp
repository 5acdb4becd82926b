#include "quest/base/version.h"

#include "git_describe.h"  // QUEST_GIT_DESCRIBE; cmake/git_stamp.cmake writes it

namespace quest {

namespace {

// QUEST_VERSION and QUEST_BUILD_TYPE come from cmake/QuestVersion.cmake.
#if defined(__clang__)
constexpr const char* kCompiler = "Clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "GCC " __VERSION__;
#else
constexpr const char* kCompiler = "unknown compiler";
#endif

}  // namespace

std::string version_number() { return QUEST_VERSION; }

std::string version_text() {
  std::string text = "quest " + version_number() + " (" + QUEST_BUILD_TYPE + ", " + kCompiler;
  const std::string git = QUEST_GIT_DESCRIBE;
  if (!git.empty()) text += ", git " + git;
  return text + ")";
}

}  // namespace quest
