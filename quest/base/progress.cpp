#include "quest/base/progress.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <limits>
#include <sys/ioctl.h>
#include <unistd.h>

#include <fmt/format.h>

namespace quest {

namespace {

constexpr std::string_view kEraseLine = "\r\x1b[K";
constexpr double kRedrawSeconds = 0.1;
constexpr int kDefaultWidth = 80;
constexpr int64_t kLeastBar = 10;  // a shorter one tells less than the percentage before it

std::atomic<bool> g_line_on_terminal{false};

int terminal_width() {
  struct winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kDefaultWidth;
  return size.ws_col;
}

void write_stderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

double seconds_between(std::chrono::steady_clock::time_point a,
                       std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

struct Scaled {
  double factor;
  std::string_view prefix;
};

// The decimal prefix with which `value` shows three digits.
Scaled scale_of(double value) {
  Scaled best{1.0, ""};
  for (const auto& [factor, prefix] : {Scaled{1e3, "k"}, Scaled{1e6, "M"}, Scaled{1e9, "G"},
                                       Scaled{1e12, "T"}, Scaled{1e15, "P"}}) {
    if (std::abs(value) >= 0.9995 * factor) best = {factor, prefix};
  }
  return best;
}

bool is_bytes(std::string_view unit) {
  return unit.substr(0, 1) == "B" && (unit.size() == 1 || unit[1] == '/');
}

std::string with_unit(const std::string& number, std::string_view prefix, std::string_view unit) {
  if (is_bytes(unit)) return fmt::format("{} {}{}", number, prefix, unit);
  return unit.empty() ? fmt::format("{}{}", number, prefix)
                      : fmt::format("{}{} {}", number, prefix, unit);
}

std::string three_digits(double value) {
  return std::abs(value) < 999.5 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value);
}

// "1.9/4.4 MB", both in the prefix of the total; few steps or items are counted: "91/2000 steps".
std::string amount_of(const ProgressLine& line) {
  const auto done = static_cast<double>(line.done);
  if (line.total <= 0) return format_quantity(done, line.unit);
  constexpr int64_t kCounted = 100'000;
  if (line.total < kCounted && !is_bytes(line.unit)) {
    return fmt::format("{}/{} {}", line.done, line.total, line.unit);
  }
  const Scaled scale = scale_of(static_cast<double>(line.total));
  return with_unit(three_digits(done / scale.factor) + "/" +
                       three_digits(static_cast<double>(line.total) / scale.factor),
                   scale.prefix, line.unit);
}

std::string time_of(const ProgressLine& line, double rate) {
  if (line.final_line) return "in " + format_duration(line.seconds);
  if (!(rate > 0)) return "ETA -:--:--";
  const auto left = static_cast<double>(std::max<int64_t>(0, line.total - line.done));
  return "ETA " + format_duration(left / rate);
}

// With the two spaces before it.
int64_t columns_of(const std::string& part) { return static_cast<int64_t>(part.size()) + 2; }

}  // namespace

std::string format_progress(const ProgressLine& line, int width) {
  const double rate =
      line.seconds > 0 ? static_cast<double>(line.done - line.first) / line.seconds : 0.0;
  const double fraction =
      line.total > 0
          ? std::clamp(static_cast<double>(line.done) / static_cast<double>(line.total), 0.0, 1.0)
          : 0.0;
  std::string head(line.title);
  if (line.total > 0) head += fmt::format(" {:3.0f} %", std::floor(fraction * 100));
  // In the order of importance, in which the line takes them. The rate is last, but stands before
  // the time where there is room for everything.
  std::vector<std::string> parts = {amount_of(line)};
  if (line.final_line || line.total > 0) parts.push_back(time_of(line, rate));
  parts.insert(parts.end(), line.fields.begin(), line.fields.end());
  const auto room = static_cast<int64_t>(width);
  auto used = static_cast<int64_t>(head.size());
  size_t kept = 0;
  while (kept < parts.size() && used + columns_of(parts[kept]) <= room) {
    used += columns_of(parts[kept++]);
  }
  const bool all = kept == parts.size();
  parts.resize(kept);
  const std::string rate_text = format_quantity(rate, std::string(line.unit) + "/s");
  if (all && used + columns_of(rate_text) <= room) {
    used += columns_of(rate_text);
    parts.insert(parts.begin() + 1, rate_text);
  }
  const int64_t bar = std::min<int64_t>(30, room - used - 4);
  if (line.with_bar && line.total > 0 && bar >= kLeastBar) {
    const auto filled = static_cast<int64_t>(fraction * static_cast<double>(bar));
    head += fmt::format(" [{:#<{}}{: <{}}]", "", filled, "", bar - filled);
  }
  for (const std::string& part : parts) head += "  " + part;
  return head;
}

void clear_progress_line() {
  if (g_line_on_terminal.exchange(false)) write_stderr(kEraseLine);
}

ProgressBar::ProgressBar(std::string title, int64_t total, std::string unit,
                         double log_interval_seconds, int64_t first)
    : title_(std::move(title)),
      total_(total),
      unit_(std::move(unit)),
      log_interval_(log_interval_seconds),
      terminal_(isatty(STDERR_FILENO) == 1),
      first_(first),
      done_(first),
      start_(std::chrono::steady_clock::now()),
      last_draw_(start_) {}

ProgressBar::~ProgressBar() {
  // Not finished means that an error is on its way: leave no half line behind.
  if (!finished_) clear_progress_line();
}

void ProgressBar::update(int64_t done, const std::vector<std::string>& fields) {
  const std::lock_guard lock(mutex_);
  if (finished_) return;
  done_ = done;
  const auto now = std::chrono::steady_clock::now();
  if (seconds_between(last_draw_, now) < (terminal_ ? kRedrawSeconds : log_interval_)) return;
  last_draw_ = now;
  draw(false, fields);
}

void ProgressBar::finish(const std::vector<std::string>& fields) {
  const std::lock_guard lock(mutex_);
  if (finished_) return;
  finished_ = true;
  draw(true, fields);
}

void ProgressBar::draw(bool final_line, const std::vector<std::string>& fields) {
  const ProgressLine line{.title = title_,
                          .done = done_,
                          .total = total_,
                          .unit = unit_,
                          .seconds = seconds_between(start_, std::chrono::steady_clock::now()),
                          .first = first_,
                          .fields = fields,
                          .final_line = final_line,
                          .with_bar = terminal_};
  if (!terminal_) {
    write_stderr(format_progress(line, std::numeric_limits<int>::max()) + "\n");
    return;
  }
  // One column less than there are: a full line would wrap and could not be redrawn in place.
  const int width = terminal_width() - 1;
  std::string text = format_progress(line, width);
  if (!final_line && text.size() > static_cast<size_t>(std::max(width, 1))) text.resize(width);
  g_line_on_terminal = !final_line;
  write_stderr(std::string(kEraseLine) + text + (final_line ? "\n" : ""));
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "-:--:--";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string format_quantity(double value, std::string_view unit) {
  const Scaled scale = scale_of(value);
  return with_unit(three_digits(value / scale.factor), scale.prefix, unit);
}

std::string format_count(int64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace quest
