#include "quest/cli_run/line_editor.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <iostream>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <fmt/format.h>

#include "quest/base/shutdown.h"
#include "quest/text/utf8.h"

namespace quest::cli {
namespace {

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// The terminal without its own line editing, until the end of the scope.
class RawTerminal {
 public:
  RawTerminal() {
    is_set_ = tcgetattr(STDIN_FILENO, &old_) == 0;
    termios raw = old_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ISIG | IEXTEN);
    raw.c_iflag &= ~static_cast<tcflag_t>(IXON | ICRNL);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    is_set_ = is_set_ && tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
  }
  ~RawTerminal() {
    if (is_set_) tcsetattr(STDIN_FILENO, TCSADRAIN, &old_);
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

 private:
  termios old_ = {};
  bool is_set_ = false;
};

// -1 at the end of the input or if a signal asks to stop.
int read_byte() {
  unsigned char byte = 0;
  while (true) {
    const ssize_t count = read(STDIN_FILENO, &byte, 1);
    if (count == 1) return byte;
    if (count < 0 && errno == EINTR && shutdown_signal() == 0) continue;
    return -1;
  }
}

size_t terminal_width() {
  winsize size = {};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !continues_character(c); }));
}

void draw(const std::string& prompt, const EditBuffer& buffer) {
  const size_t used = characters(prompt) + 1, width = terminal_width();
  const VisibleText shown =
      visible_part(buffer.text(), buffer.cursor(), width > used + 8 ? width - used : 8);
  std::string line = "\r" + prompt + shown.text + "\x1b[K\r";
  const size_t column = characters(prompt) + shown.column;
  if (column > 0) line += fmt::format("\x1b[{}C", column);
  std::fputs(line.c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace

size_t EditBuffer::before(size_t at) const {
  if (at == 0) return 0;
  do --at;
  while (at > 0 && continues_character(text_[at]));
  return at;
}

size_t EditBuffer::after(size_t at) const {
  if (at == text_.size()) return at;
  do ++at;
  while (at < text_.size() && continues_character(text_[at]));
  return at;
}

void EditBuffer::set(std::string text) {
  text_ = std::move(text);
  cursor_ = text_.size();
}
void EditBuffer::insert(std::string_view text) {
  text_.insert(cursor_, text);
  cursor_ += text.size();
}
void EditBuffer::left() { cursor_ = before(cursor_); }
void EditBuffer::right() { cursor_ = after(cursor_); }
void EditBuffer::backspace() {
  const size_t begin = before(cursor_);
  text_.erase(begin, cursor_ - begin);
  cursor_ = begin;
}
void EditBuffer::remove() { text_.erase(cursor_, after(cursor_) - cursor_); }
void EditBuffer::remove_word() {
  size_t begin = cursor_;
  while (begin > 0 && text_[begin - 1] == ' ') --begin;
  while (begin > 0 && text_[begin - 1] != ' ') --begin;
  text_.erase(begin, cursor_ - begin);
  cursor_ = begin;
}
void EditBuffer::remove_to_start() {
  text_.erase(0, cursor_);
  cursor_ = 0;
}

VisibleText visible_part(std::string_view text, size_t cursor, size_t width) {
  std::vector<size_t> starts;  // of the characters
  for (size_t i = 0; i < text.size(); ++i) {
    if (!continues_character(text[i])) starts.push_back(i);
  }
  const auto at =
      static_cast<size_t>(std::lower_bound(starts.begin(), starts.end(), cursor) - starts.begin());
  const size_t first = at >= width ? at - width + 1 : 0;
  const size_t last = std::min(starts.size(), first + width);
  const size_t begin = first < starts.size() ? starts[first] : text.size();
  const size_t end = last < starts.size() ? starts[last] : text.size();
  return {std::string(text.substr(begin, end - begin)), at - first};
}

LineEditor::LineEditor() : is_terminal_(isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0) {}

std::optional<std::string> LineEditor::read(const std::string& prompt) {
  std::string whole;
  for (std::string current = prompt;; current = "... ") {
    auto line = is_terminal_ ? edit(current) : read_plain(current);
    if (!line) return whole.empty() ? std::nullopt : std::optional(whole);
    const bool goes_on = line->ends_with('\\');
    if (goes_on) line->back() = '\n';
    whole += *line;
    if (!goes_on) break;
  }
  sanitize_utf8(whole);
  if (!whole.empty() && whole.find('\n') == std::string::npos &&
      (history_.empty() || history_.back() != whole)) {
    history_.push_back(whole);
  }
  return whole;
}

std::optional<std::string> LineEditor::read_plain(const std::string&) {
  std::string line;
  if (!std::getline(std::cin, line)) return std::nullopt;
  return line;
}

void LineEditor::go_in_history(EditBuffer& buffer, int step) {
  const auto target = static_cast<std::ptrdiff_t>(place_) + step;
  if (target < 0 || target > static_cast<std::ptrdiff_t>(history_.size())) return;
  if (place_ == history_.size()) new_line_ = buffer.text();
  place_ = static_cast<size_t>(target);
  buffer.set(place_ == history_.size() ? new_line_ : history_[place_]);
}

void LineEditor::escape_sequence(EditBuffer& buffer) {
  const int kind = read_byte();
  if (kind != '[' && kind != 'O') return;
  int key = read_byte();
  if (key >= '0' && key <= '9') {  // "3~" and the like
    const int number = key;
    while ((key = read_byte()) != -1 && key != '~' && !(key >= 'A' && key <= 'Z')) {
    }
    if (number == '3' && key == '~') buffer.remove();
    if ((number == '1' || number == '7') && key == '~') buffer.home();
    if ((number == '4' || number == '8') && key == '~') buffer.end();
    return;
  }
  if (key == 'A') go_in_history(buffer, -1);
  if (key == 'B') go_in_history(buffer, +1);
  if (key == 'C') buffer.right();
  if (key == 'D') buffer.left();
  if (key == 'H') buffer.home();
  if (key == 'F') buffer.end();
}

std::optional<std::string> LineEditor::edit(const std::string& prompt) {
  constexpr auto control = [](char letter) { return letter - '@'; };
  const RawTerminal raw;
  EditBuffer buffer;
  place_ = history_.size();
  while (true) {
    draw(prompt, buffer);
    const int byte = read_byte();
    if (byte == -1 || (byte == control('D') && buffer.text().empty())) {
      std::fputs("\r\n", stdout);
      return std::nullopt;
    }
    if (byte == '\r' || byte == '\n') {
      std::fputs("\r\n", stdout);
      std::fflush(stdout);
      return buffer.text();
    }
    if (byte == control('C')) {
      std::fputs("^C\r\n", stdout);
      return std::string();
    }
    if (byte == control('A')) buffer.home();
    if (byte == control('E')) buffer.end();
    if (byte == control('B')) buffer.left();
    if (byte == control('F')) buffer.right();
    if (byte == control('D')) buffer.remove();
    if (byte == control('H') || byte == 127) buffer.backspace();
    if (byte == control('W')) buffer.remove_word();
    if (byte == control('U')) buffer.remove_to_start();
    if (byte == control('K')) buffer.remove_to_end();
    if (byte == control('P')) go_in_history(buffer, -1);
    if (byte == control('N')) go_in_history(buffer, +1);
    if (byte == control('L')) std::fputs("\x1b[2J\x1b[H", stdout);
    if (byte == control('[')) escape_sequence(buffer);
    if (byte == '\t') buffer.insert(" ");
    if (byte >= 32 && byte != 127) {
      // A whole character at once, so that the cursor never stands inside one.
      std::string text(1, static_cast<char>(byte));
      while (incomplete_utf8_suffix(text) == text.size()) {
        const int more = read_byte();
        if (more == -1) break;
        text += static_cast<char>(more);
      }
      buffer.insert(text);
    }
  }
}

}  // namespace quest::cli
