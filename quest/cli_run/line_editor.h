// One line of input with editing and history on a terminal; a plain line otherwise.
//
//   LineEditor editor;
//   while (const auto line = editor.read("> ")) { ... }
//
// Keys: arrows, Home and End (Ctrl-A, Ctrl-E), Backspace, Delete, Ctrl-W (word), Ctrl-U and Ctrl-K
// (to the line's ends), up and down for earlier lines, Ctrl-L (clear screen), Ctrl-C (drop the
// line), Ctrl-D (end, on an empty line). A line that ends with \ goes on in the next one.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quest::cli {

// The text being edited and its cursor, always between characters. Pure.
class EditBuffer {
 public:
  void set(std::string text);
  void insert(std::string_view text);
  void left();
  void right();
  void home() { cursor_ = 0; }
  void end() { cursor_ = text_.size(); }
  void backspace();
  void remove();  // the character at the cursor
  void remove_word();
  void remove_to_start();
  void remove_to_end() { text_.erase(cursor_); }

  const std::string& text() const { return text_; }
  size_t cursor() const { return cursor_; }

 private:
  size_t before(size_t at) const;
  size_t after(size_t at) const;

  std::string text_;
  size_t cursor_ = 0;  // bytes
};

// What fits of a text into `width` columns (one for each character) around the cursor, and the
// cursor's column in it.
struct VisibleText {
  std::string text;
  size_t column = 0;
};
VisibleText visible_part(std::string_view text, size_t cursor, size_t width);

class LineEditor {
 public:
  LineEditor();
  // Nothing at the end of the input. An empty line where Ctrl-C dropped it.
  std::optional<std::string> read(const std::string& prompt);
  bool is_terminal() const { return is_terminal_; }

 private:
  std::optional<std::string> read_plain(const std::string& prompt);
  std::optional<std::string> edit(const std::string& prompt);
  void escape_sequence(EditBuffer& buffer);
  void go_in_history(EditBuffer& buffer, int step);

  bool is_terminal_;
  std::vector<std::string> history_;
  size_t place_ = 0;      // in history_; its size: the new line
  std::string new_line_;  // what was typed before going back in the history
};

}  // namespace quest::cli
