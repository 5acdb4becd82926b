#include "quest/cli_run/line_editor.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <fmt/format.h>

#include "quest/base/shutdown.h"
#include "quest/text/utf8.h"

namespace quest::cli {
namespace {

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

size_t terminal_width() {
  winsize size = {};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

// Ranges of characters, first and last, in rising order.
struct Range {
  uint32_t first, last;
};
// Combining marks, joiners and variation selectors that texts commonly hold.
constexpr std::array<Range, 20> kZeroColumns = {{
    {0x0300, 0x036F}, {0x0483, 0x0489}, {0x0591, 0x05BD}, {0x0610, 0x061A}, {0x064B, 0x065F},
    {0x06D6, 0x06DC}, {0x0900, 0x0902}, {0x093C, 0x093C}, {0x0941, 0x0948}, {0x094D, 0x094D},
    {0x0E31, 0x0E31}, {0x0E34, 0x0E3A}, {0x0E47, 0x0E4E}, {0x1AB0, 0x1AFF}, {0x1DC0, 0x1DFF},
    {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F}, {0x1F3FB, 0x1F3FF},
}};
// East Asian Wide and Fullwidth (Unicode, UAX 11), coarsely.
constexpr std::array<Range, 22> kTwoColumns = {{
    {0x1100, 0x115F},   {0x231A, 0x231B},   {0x23E9, 0x23EC}, {0x2614, 0x2615}, {0x2648, 0x2653},
    {0x26BD, 0x26BE},   {0x2705, 0x2705},   {0x2728, 0x2728}, {0x274C, 0x274C}, {0x2753, 0x2755},
    {0x2795, 0x2797},   {0x2E80, 0x303E},   {0x3041, 0xA4CF}, {0xA960, 0xA97C}, {0xAC00, 0xD7A3},
    {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF01, 0xFF60}, {0xFFE0, 0xFFE6}, {0x1F300, 0x1F64F},
    {0x1F680, 0x1F9FF}, {0x20000, 0x3FFFD},
}};

template <size_t N>
bool is_in(const std::array<Range, N>& ranges, uint32_t code) {
  const auto range = std::lower_bound(ranges.begin(), ranges.end(), code,
                                      [](const Range& r, uint32_t c) { return r.last < c; });
  return range != ranges.end() && range->first <= code;
}

uint32_t code_point(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const int length = utf8_character_length(text);
  if (length <= 1) return lead;
  uint32_t code = lead & (0x7Fu >> length);
  for (int i = 1; i < length; ++i) {
    code = code << 6 | (static_cast<unsigned char>(text[static_cast<size_t>(i)]) & 0x3Fu);
  }
  return code;
}

size_t columns(std::string_view text) {
  size_t sum = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!continues_character(text[i])) sum += character_columns(text.substr(i));
  }
  return sum;
}

void draw(const std::string& prompt, const EditBuffer& buffer) {
  const size_t used = columns(prompt) + 1, width = terminal_width();
  const VisibleText shown =
      visible_part(buffer.text(), buffer.cursor(), width > used + 8 ? width - used : 8);
  std::string line = "\r" + prompt + shown.text + "\x1b[K\r";
  const size_t column = columns(prompt) + shown.column;
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
void EditBuffer::word_left() {
  while (cursor_ > 0 && text_[cursor_ - 1] == ' ') --cursor_;
  while (cursor_ > 0 && text_[cursor_ - 1] != ' ') --cursor_;
}
void EditBuffer::word_right() {
  while (cursor_ < text_.size() && text_[cursor_] == ' ') ++cursor_;
  while (cursor_ < text_.size() && text_[cursor_] != ' ') ++cursor_;
}
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

size_t character_columns(std::string_view text) {
  const uint32_t code = code_point(text);
  return is_in(kZeroColumns, code) ? 0 : is_in(kTwoColumns, code) ? 2 : 1;
}

VisibleText visible_part(std::string_view text, size_t cursor, size_t width) {
  const auto begin_of = [&](size_t end) {  // of the character that ends there
    do --end;
    while (end > 0 && continues_character(text[end]));
    return end;
  };
  // To the left as far as there is room beside the cursor, then to the right.
  VisibleText shown;
  size_t begin = cursor;
  while (begin > 0) {
    const size_t before = begin_of(begin);
    const size_t more = character_columns(text.substr(before));
    if (shown.column + more + 1 > width) break;
    shown.column += more;
    begin = before;
  }
  size_t used = 0;
  for (size_t at = begin; at < text.size();) {
    size_t end = at + 1;
    while (end < text.size() && continues_character(text[end])) ++end;
    used += character_columns(text.substr(at));
    if (used > width) break;
    shown.text += text[at] == '\n' ? "\xE2\x86\xB5" : text.substr(at, end - at);
    at = end;
  }
  return shown;
}

std::string pasted_text(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (text[i] == '\r' || text[i] == '\n') {
      if (text[i] == '\r' && text.substr(i + 1).starts_with('\n')) ++i;
      out += '\n';
    } else if (text[i] == '\t') {
      out += ' ';
    } else if (byte >= 32 && byte != 127) {
      out += text[i];
    }
  }
  out.erase(out.find_last_not_of('\n') + 1);
  sanitize_utf8(out);
  return out;
}

int InputBytes::next(int milliseconds) {
  // A handler's flag is seen within this time: read() alone would go on after a signal.
  constexpr int kLook = 200;
  while (at_ == held_.size()) {
    if (shutdown_signal() != 0) return kEnd;
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    const int wait = milliseconds < 0 ? kLook : std::min(milliseconds, kLook);
    const int ready = poll(&input, 1, wait);
    if (ready < 0 && errno != EINTR) return kEnd;
    if (ready <= 0) {
      if (milliseconds >= 0 && (milliseconds -= wait) <= 0) return kNothing;
      continue;
    }
    std::array<char, 4096> part;
    const ssize_t count = read(STDIN_FILENO, part.data(), part.size());
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count <= 0) return kEnd;
    held_.assign(part.data(), static_cast<size_t>(count));
    at_ = 0;
  }
  return static_cast<unsigned char>(held_[at_++]);
}

// The terminal without its own line editing, until the end of the scope.
class LineEditor::RawTerminal {
 public:
  RawTerminal() { begin(); }
  ~RawTerminal() { end(); }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  // Stops the program until the shell wakes it up.
  void suspend() {
    end();
    raise(SIGTSTP);
    begin();
  }

 private:
  void begin() {
    is_set_ = tcgetattr(STDIN_FILENO, &old_) == 0;
    termios raw = old_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ISIG | IEXTEN);
    raw.c_iflag &= ~static_cast<tcflag_t>(IXON | ICRNL);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    is_set_ = is_set_ && tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
    if (is_set_) std::fputs("\x1b[?2004h", stdout);  // pasted text comes with marks around it
  }
  void end() {
    if (!is_set_) return;
    std::fputs("\x1b[?2004l", stdout);
    std::fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &old_);
  }

  termios old_ = {};
  bool is_set_ = false;
};

LineEditor::LineEditor() : is_terminal_(isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0) {}

std::optional<std::string> LineEditor::read(const std::string& prompt) {
  std::string whole;
  for (std::string current = prompt;; current = "... ") {
    auto line = is_terminal_ ? edit(current) : read_plain();
    if (!line) return whole.empty() ? std::nullopt : std::optional(whole);
    const bool goes_on = line->ends_with('\\');
    if (goes_on) line->back() = '\n';
    whole += *line;
    if (!goes_on) break;
  }
  sanitize_utf8(whole);
  if (!whole.empty() && (history_.empty() || history_.back() != whole)) history_.push_back(whole);
  return whole;
}

std::optional<std::string> LineEditor::read_plain() {
  std::string line;
  while (true) {
    const int byte = input_.next();
    if (byte == InputBytes::kEnd && (line.empty() || shutdown_signal() != 0)) return std::nullopt;
    if (byte == InputBytes::kEnd || byte == '\n') return line;
    line += static_cast<char>(byte);
  }
}

void LineEditor::go_in_history(EditBuffer& buffer, int step) {
  const auto target = static_cast<std::ptrdiff_t>(place_) + step;
  if (target < 0 || target > static_cast<std::ptrdiff_t>(history_.size())) return;
  if (place_ == history_.size()) new_line_ = buffer.text();
  place_ = static_cast<size_t>(target);
  buffer.set(place_ == history_.size() ? new_line_ : history_[place_]);
}

// Pasted text up to its closing mark.
std::string LineEditor::read_paste() {
  constexpr std::string_view kMark = "\x1b[201~";
  std::string text;
  while (!text.ends_with(kMark)) {
    const int byte = input_.next();
    if (byte == InputBytes::kEnd) return text;
    text += static_cast<char>(byte);
  }
  text.resize(text.size() - kMark.size());
  return text;
}

void LineEditor::apply_escape_sequence(EditBuffer& buffer) {
  constexpr int kPatience = 50;  // ms; a sequence comes at once, the Escape key alone
  const int kind = input_.next(kPatience);
  if (kind != '[' && kind != 'O') return;
  std::string numbers;
  int key = input_.next(kPatience);
  for (; key == ';' || (key >= '0' && key <= '9'); key = input_.next(kPatience)) {
    numbers += static_cast<char>(key);
  }
  const bool by_words = numbers == "1;5" || numbers == "1;3";  // Ctrl, Alt
  if (key == '~') {
    if (numbers == "200") buffer.insert(pasted_text(read_paste()));
    if (numbers == "3") buffer.remove();
    if (numbers == "1" || numbers == "7") buffer.home();
    if (numbers == "4" || numbers == "8") buffer.end();
  }
  if (key == 'A') go_in_history(buffer, -1);
  if (key == 'B') go_in_history(buffer, +1);
  if (key == 'C') by_words ? buffer.word_right() : buffer.right();
  if (key == 'D') by_words ? buffer.word_left() : buffer.left();
  if (key == 'H') buffer.home();
  if (key == 'F') buffer.end();
}

// A whole character at once, so that the cursor never stands inside one.
void LineEditor::apply_character(int first, EditBuffer& buffer) {
  std::string text(1, static_cast<char>(first));
  while (incomplete_utf8_suffix(text) == text.size()) {
    const int more = input_.next();
    if (more == InputBytes::kEnd) break;
    text += static_cast<char>(more);
  }
  sanitize_utf8(text);
  buffer.insert(text);
}

constexpr int control(char letter) { return letter - '@'; }

void LineEditor::apply_key(int byte, EditBuffer& buffer) {
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
  if (byte == control('[')) apply_escape_sequence(buffer);
  if (byte == '\t') buffer.insert(" ");
  if (byte >= 32 && byte != 127) apply_character(byte, buffer);
}

std::optional<std::string> LineEditor::edit(const std::string& prompt) {
  RawTerminal raw;
  EditBuffer buffer;
  place_ = history_.size();
  while (true) {
    draw(prompt, buffer);
    const int byte = input_.next();
    const bool is_empty = buffer.text().empty();
    const bool is_interrupt = byte == control('C');
    const bool ends_now = is_interrupt && is_empty && ends_with_interrupt_;
    ends_with_interrupt_ = is_interrupt && is_empty;
    if (byte == InputBytes::kEnd || ends_now || (byte == control('D') && is_empty)) {
      std::fputs("\n", stdout);
      return std::nullopt;
    }
    if (byte == '\r' || byte == '\n') {
      std::fputs("\n", stdout);
      std::fflush(stdout);
      return buffer.text();
    }
    if (is_interrupt) {
      std::fputs(is_empty ? "^C (once more, or Ctrl-D, to end)\n" : "^C\n", stdout);
      return std::string();
    }
    if (byte == control('Z')) {
      raw.suspend();
    } else {
      apply_key(byte, buffer);
    }
  }
}

}  // namespace quest::cli
