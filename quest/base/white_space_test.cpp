#include "quest/base/white_space.h"

#include <gtest/gtest.h>

namespace quest {
namespace {

TEST(Trimmed, TakesWhiteSpaceFromBothEndsOnly) {
  EXPECT_EQ(trimmed("a"), "a");
  EXPECT_EQ(trimmed(" \t\n\r\f\va b\t c\v\f\r\n\t "), "a b\t c");
  EXPECT_EQ(trimmed("a  "), "a");
  EXPECT_EQ(trimmed("  a"), "a");
  EXPECT_EQ(trimmed(""), "");
  EXPECT_EQ(trimmed(" \n "), "");
  EXPECT_EQ(trimmed(std::string_view(" \0 ", 3)), std::string_view("\0", 1));
  EXPECT_EQ(trimmed(" \xc2\xa0 "), "\xc2\xa0");  // a no-break space is not ASCII
}

TEST(Trimmed, TakesOnlyTheCharactersThatItIsTold) {
  EXPECT_EQ(trimmed(" \ta\n ", " "), "\ta\n");
  EXPECT_EQ(trimmed("--a-", "-"), "a");
  EXPECT_EQ(trimmed("--", "-"), "");
  EXPECT_EQ(trimmed(" a ", ""), " a ");
}

}  // namespace
}  // namespace quest
