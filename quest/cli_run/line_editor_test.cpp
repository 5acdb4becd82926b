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

TEST(EditBuffer, GoesByWords) {
  EditBuffer b;
  b.set("one  \xC3\xA4tw ");
  b.word_left();
  EXPECT_EQ(b.cursor(), 5u);
  b.word_left();
  EXPECT_EQ(b.cursor(), 0u);
  b.word_left();
  b.word_right();
  EXPECT_EQ(b.cursor(), 3u);
  b.word_right();
  b.word_right();
  b.word_right();
  EXPECT_EQ(b.cursor(), b.text().size());
}

TEST(CharacterColumns, KnowsWideAndCombiningCharacters) {
  EXPECT_EQ(character_columns("ab"), 1u);
  EXPECT_EQ(character_columns("é"), 1u);
  EXPECT_EQ(character_columns("漢"), 2u);
  EXPECT_EQ(character_columns("한"), 2u);
  EXPECT_EQ(character_columns("\xF0\x9F\x99\x82"), 2u);
  EXPECT_EQ(character_columns("\xCC\x81"), 0u);      // combining acute
  EXPECT_EQ(character_columns("\xEF\xB8\x8F"), 0u);  // variation selector
  EXPECT_EQ(character_columns("\xE2\x96\x81"), 1u);
  EXPECT_EQ(character_columns("\n"), 1u);
}

TEST(PastedText, KeepsLinesAndDropsControlCharacters) {
  EXPECT_EQ(pasted_text("a\r\nb\rc\td\n\n"), "a\nb\nc d");
  EXPECT_EQ(pasted_text("x\x1b[31my\x7F\x01"), "x[31my");
  EXPECT_EQ(pasted_text("\xC3"), "\xEF\xBF\xBD");
  EXPECT_EQ(pasted_text("\n"), "");
}

TEST(VisibleText, CountsColumns) {
  const VisibleText all = visible_part("漢字x", 6, 8);
  EXPECT_EQ(all.text, "漢字x");
  EXPECT_EQ(all.column, 4u);
  EXPECT_EQ(visible_part("漢字漢", 0, 5).text, "漢字");
  const VisibleText end = visible_part("漢字漢", 9, 4);  // one column is the cursor's
  EXPECT_EQ(end.text, "漢");
  EXPECT_EQ(end.column, 2u);
  EXPECT_EQ(visible_part("a\nb", 3, 8).text, "a↵b");
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
