#include "quest/cli_run/line_editor.h"

#include <gtest/gtest.h>

namespace quest::cli {
namespace {

TEST(EditBuffer, KeepsCharactersWhole) {
  EditBuffer b;
  b.insert("aé漢");
  b.left();
  EXPECT_EQ(b.cursor(), 3u);
  b.left();
  EXPECT_EQ(b.cursor(), 1u);
  b.insert("x");
  EXPECT_EQ(b.text(), "axé漢");
  b.remove();
  EXPECT_EQ(b.text(), "ax漢");
  b.end();
  b.backspace();
  b.backspace();
  EXPECT_EQ(b.text(), "a");
  b.right();
  b.home();
  b.backspace();
  b.left();
  EXPECT_EQ(b.text(), "a");
}

TEST(EditBuffer, RemovesWordsAndEnds) {
  EditBuffer b;
  b.set("one two  ");
  b.remove_word();
  EXPECT_EQ(b.text(), "one ");
  b.set("abcd");
  b.left();
  b.remove_to_end();
  EXPECT_EQ(b.text(), "abc");
  b.left();
  b.remove_to_start();
  EXPECT_EQ(b.text(), "c");
}

TEST(VisibleText, FollowsTheCursor) {
  EXPECT_EQ(visible_part("abc", 3, 8).text, "abc");
  EXPECT_EQ(visible_part("abc", 3, 8).column, 3u);
  const VisibleText end = visible_part("0123456789", 10, 4);
  EXPECT_EQ(end.text, "789");
  EXPECT_EQ(end.column, 3u);
  EXPECT_EQ(visible_part("0123456789", 0, 4).text, "0123");
  const VisibleText wide = visible_part("éééé", 4, 2);
  EXPECT_EQ(wide.text, "éé");
  EXPECT_EQ(wide.column, 1u);
  EXPECT_EQ(visible_part("", 0, 4).text, "");
}

}  // namespace
}  // namespace quest::cli
