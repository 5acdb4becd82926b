#include "quest/cli_run/text_options.h"

#include <gtest/gtest.h>

#include "quest/base/log.h"
#include "quest/base/testing.h"

namespace quest::cli {
namespace {

TEST(TextOptions, UnescapesSeparators) {
  EXPECT_EQ(unescape(""), "");
  EXPECT_EQ(unescape("<|end|>"), "<|end|>");
  EXPECT_EQ(unescape("\\n\\n\\t\\r\\f\\\\n"), "\n\n\t\r\f\\n");
  EXPECT_QUEST_ERROR(unescape("a\\q"), ErrorKind::kUsage, "'a\\q'");
  EXPECT_QUEST_ERROR(unescape("a\\"), ErrorKind::kUsage, "'a\\'");
}

TEST(TextOptions, ProblemsAreCounted) {
  log::set_level(log::Level::kInfo);
  const auto log_of = [](const TextCounts& counts) {
    ::testing::internal::CaptureStderr();
    log_text_problems(counts);
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(log_of({}), "");
  const std::string one = log_of({.empty_documents = 1, .bad_lines = 1, .replaced_bytes = 1});
  EXPECT_NE(one.find("skipped 1 empty document\n"), std::string::npos) << one;
  EXPECT_NE(one.find("skipped 1 bad .jsonl line\n"), std::string::npos) << one;
  EXPECT_NE(one.find("replaced 1 byte of invalid"), std::string::npos) << one;
  const std::string two = log_of({.empty_documents = 2, .bad_lines = 3, .replaced_bytes = 4});
  EXPECT_NE(two.find("skipped 2 empty documents\n"), std::string::npos) << two;
  EXPECT_NE(two.find("skipped 3 bad .jsonl lines\n"), std::string::npos) << two;
  EXPECT_NE(two.find("replaced 4 bytes of invalid"), std::string::npos) << two;
}

}  // namespace
}  // namespace quest::cli
