#include "quest/plot/metrics.h"

#include <cmath>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/log.h"

namespace quest::plot {
namespace {

// Appends the point if the line has a finite value under `key`.
void append_loss(const Json& line, const char* key, const std::string& where,
                 std::vector<MetricsPoint>& points) {
  if (!line.contains(key) || line.at(key).is_null()) return;
  MetricsPoint point;
  point.step = json_get<int64_t>(line, "step", where);
  point.tokens = json_get<int64_t>(line, "tokens", where);
  point.loss = json_get<double>(line, key, where);
  QUEST_CHECK(point.step >= 0 && point.tokens >= 0, ErrorKind::kData,
              "{}: step {} and tokens {} must not be negative", where, point.step, point.tokens);
  QUEST_CHECK(points.empty() || point.step >= points.back().step, ErrorKind::kData,
              "{}: step {} comes after step {}; a metrics file is in the order of training", where,
              point.step, points.back().step);
  if (std::isfinite(point.loss)) points.push_back(point);
}

}  // namespace

RunMetrics parse_metrics(std::string_view text, std::string_view source) {
  RunMetrics run;
  int64_t line_number = 0;
  while (!text.empty()) {
    ++line_number;
    const size_t end = text.find('\n');
    const bool complete = end != std::string_view::npos;
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(complete ? end + 1 : text.size());
    const std::string where = fmt::format("{}:{}", source, line_number);
    Json object;
    try {
      object = parse_json(line, where);
    } catch (const Error&) {
      if (complete) throw;
      run.truncated = true;
      break;
    }
    QUEST_CHECK(object.is_object(), ErrorKind::kData, "{}: expected a JSON object, found {}", where,
                object.type_name());
    append_loss(object, "loss", where, run.training);
    append_loss(object, "validation_loss", where, run.validation);
  }
  return run;
}

RunMetrics read_run_metrics(const std::filesystem::path& run) {
  const bool is_folder = std::filesystem::is_directory(run);
  const std::filesystem::path file = is_folder ? run / "metrics.jsonl" : run;
  RunMetrics metrics = parse_metrics(read_file(file), file.string());
  if (metrics.truncated) {
    log::warn("{}: the last line is cut off (a run that was killed?) and is left out",
              file.string());
  }
  QUEST_CHECK(!metrics.training.empty() || !metrics.validation.empty(), ErrorKind::kData,
              "{}: no loss in it yet; nothing to plot", file.string());
  // Absolute and without "." or a trailing slash, so that the last part is the folder's own name.
  const std::filesystem::path folder =
      std::filesystem::weakly_canonical(is_folder ? run : run.parent_path() / ".");
  metrics.name = is_folder || file.filename() == "metrics.jsonl" ? folder.filename().string()
                                                                 : file.stem().string();
  return metrics;
}

}  // namespace quest::plot
