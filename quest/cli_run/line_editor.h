// One line of input with editing and history on a terminal; a plain line otherwise.
//
//   LineEditor editor;
//   while (const auto line = editor.read("> ")) { ... }
//
// Keys: arrows (with Ctrl: by words), Home and End (Ctrl-A, Ctrl-E), Backspace, Delete, Ctrl-W
// (word), Ctrl-U and Ctrl-K (to the line's ends), up and down for earlier lines, Ctrl-L (clear
// screen), Ctrl-C (drop the line; on an empty line twice: end), Ctrl-D (end, on an empty line),
// Ctrl-Z (suspend). A line that ends with \ goes on in the next one. What is pasted into a terminal
// that marks it (bracketed paste) is one input with its lines, sent with Enter.
#pragma once

#include <cstddef>
#include <cstdint>
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
  void word_left();
  void word_right();
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

// Columns that the character at the front of `text` takes in a terminal: 2 for wide ones (East
// Asian, most emoji), 0 for those that are drawn over the one before, else 1.
size_t character_columns(std::string_view text);

// What fits of a text into `width` columns around the cursor, and the cursor's column in it. Line
// feeds are shown as U+21B5.
struct VisibleText {
  std::string text;
  size_t column = 0;
};
VisibleText visible_part(std::string_view text, size_t cursor, size_t width);

// What was pasted as it goes into a line: line ends as \n without those at the end, tabs as spaces,
// no other control characters.
std::string pasted_text(std::string_view text);

// The bytes of standard input, while no signal asks to stop.
class InputBytes {
 public:
  static constexpr int kEnd = -1, kNothing = -2;
  // The next byte; kEnd at the end or if a signal came; kNothing if none came within
  // `milliseconds` (negative: waits).
  int next(int milliseconds = -1);

 private:
  std::string held_;
  size_t at_ = 0;
};

class LineEditor {
 public:
  LineEditor();
  // Nothing at the end of the input. An empty line where Ctrl-C dropped it.
  std::optional<std::string> read(const std::string& prompt);
  bool is_terminal() const { return is_terminal_; }

 private:
  class RawTerminal;
  std::optional<std::string> read_plain();
  std::optional<std::string> edit(const std::string& prompt);
  void apply_key(int byte, EditBuffer& buffer);
  void apply_character(int first, EditBuffer& buffer);
  void apply_escape_sequence(EditBuffer& buffer);
  std::string read_paste();
  void go_in_history(EditBuffer& buffer, int step);

  bool is_terminal_;
  bool ends_with_interrupt_ = false;  // the last key was Ctrl-C on an empty line
  InputBytes input_;
  std::vector<std::string> history_;
  size_t place_ = 0;      // in history_; its size: the new line
  std::string new_line_;  // what was typed before going back in the history
};

}  // namespace quest::cli
