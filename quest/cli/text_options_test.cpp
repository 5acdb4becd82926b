#include "quest/cli/text_options.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace quest::cli
