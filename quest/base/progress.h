// One progress line: redrawn in place on a terminal, a plain line now and then in a log file.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

// ProgressBar bar("tokenizing", total_bytes, "B"); bar.update(done); ... bar.finish();
// On a terminal: "tokenizing  43 % [#####      ]  1.9/4.4 MB  12.3 MB/s  ETA 0:00:02", at most 10 a
// second; otherwise one line every `log_interval_seconds`. total 0: unknown, no percentage. To
// stderr. first: what an earlier run had done already; it counts as done, but not for the rate.
class ProgressBar {
 public:
  ProgressBar(std::string title, int64_t total, std::string unit, double log_interval_seconds = 10,
              int64_t first = 0);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // fields: further parts of the line ("loss 3.21"), the most important first.
  void update(int64_t done, const std::vector<std::string>& fields = {});
  void finish(const std::vector<std::string>& fields = {});

 private:
  void draw(bool final_line, const std::vector<std::string>& fields);  // holds mutex_

  std::mutex mutex_;
  std::string title_;
  int64_t total_;
  std::string unit_;
  double log_interval_;
  bool terminal_;
  bool finished_ = false;
  int64_t first_, done_;
  std::chrono::steady_clock::time_point start_, last_draw_;
};

// The text of one progress line, at most `width` columns wide if its title is not wider. What does
// not fit is left out whole: first the rate, then fields from the last on, then the time, then the
// amount. The bar is left out if with_bar is false (log files) or if there is no room for it.
struct ProgressLine {
  std::string_view title = {};
  int64_t done = 0;
  int64_t total = 0;  // 0: unknown
  std::string_view unit = {};
  double seconds = 0;  // since the start
  int64_t first = 0;   // done before the start
  std::vector<std::string> fields = {};
  bool final_line = false;  // shows the time taken instead of the time left
  bool with_bar = true;
};
std::string format_progress(const ProgressLine& line, int width);
// Erases the line of a bar that stands on the terminal, so that a log line can take its place; the
// bar draws itself again at its next update. log::write calls it.
void clear_progress_line();

std::string format_duration(double seconds);  // "0:01:07"
std::string format_quantity(double value,
                            std::string_view unit);  // three digits: "4.41 MB", "1.2k tokens"
std::string format_count(int64_t count, std::string_view noun);  // "1 file", "2 files"

}  // namespace quest
