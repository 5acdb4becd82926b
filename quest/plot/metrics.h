// The learning curve of a run, read from the metrics.jsonl that the trainer writes.
//
// One JSON object per line:
//   training    {"step": 20, "tokens": 40960, "loss": 5.21, "lr": 1e-3, ...}
//   evaluation  {"step": 20, "tokens": 40960, "validation_loss": 5.3, ...}
// A line may hold both; lines with neither (events) and losses of null (not finite) are passed
// over. A last line without its newline that is not complete JSON is what a killed run leaves: it
// is dropped and `truncated` is set. Anything else that is wrong throws kData naming source and
// line.
//
//   RunMetrics run = read_run_metrics("runs/w4a4-1b2c3d4e");   // a run folder or a metrics file
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "quest/base/json_util.h"

namespace quest::plot {

struct MetricsPoint {
  int64_t step = 0;    // optimizer steps done
  int64_t tokens = 0;  // tokens seen
  double loss = 0;     // mean cross-entropy in nats per token
};

struct RunMetrics {
  std::string name;
  std::vector<MetricsPoint> training;
  std::vector<MetricsPoint> validation;
  bool truncated = false;
};

// Calls visit(object, "source:line") for each line. Returns true if the last line is cut off and
// was left out. Throws kData for a line that is no JSON object.
bool for_each_metrics_line(std::string_view text, std::string_view source,
                           const std::function<void(const Json&, const std::string&)>& visit);

// FOLDER/metrics.jsonl, or the file itself.
std::filesystem::path metrics_file(const std::filesystem::path& run);
// The name of a run: its folder's, or the stem of a metrics file of another name.
std::string run_name(const std::filesystem::path& run);

// `source` starts the messages. Throws kData.
RunMetrics parse_metrics(std::string_view text, std::string_view source);

// Reads FOLDER/metrics.jsonl or the file given; the name is the folder's. Warns in the log about a
// truncated last line. Throws kIo, kData (also if there is no loss at all).
RunMetrics read_run_metrics(const std::filesystem::path& run);

}  // namespace quest::plot
