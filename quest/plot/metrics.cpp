#include "quest/plot/metrics.h"

#include <cmath>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
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

bool for_each_metrics_line(std::string_view text, std::string_view source,
                           const std::function<void(const Json&, const std::string&)>& visit) {
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
      return true;
    }
    QUEST_CHECK(object.is_object(), ErrorKind::kData, "{}: expected a JSON object, found {}", where,
                object.type_name());
    visit(object, where);
  }
  return false;
}

std::filesystem::path metrics_file(const std::filesystem::path& run) {
  return std::filesystem::is_directory(run) ? run / "metrics.jsonl" : run;
}

std::string run_name(const std::filesystem::path& run) {
  const bool is_folder = std::filesystem::is_directory(run);
  // Absolute and without "." or a trailing slash, so that the last part is the folder's own name.
  const std::filesystem::path folder =
      std::filesystem::weakly_canonical(is_folder ? run : run.parent_path() / ".");
  return is_folder || run.filename() == "metrics.jsonl" ? folder.filename().string()
                                                        : run.stem().string();
}

RunMetrics parse_metrics(std::string_view text, std::string_view source) {
  RunMetrics run;
  run.truncated = for_each_metrics_line(text, source, [&](const Json& line, const std::string& at) {
    append_loss(line, "loss", at, run.training);
    append_loss(line, "validation_loss", at, run.validation);
  });
  return run;
}

RunMetrics read_run_metrics(const std::filesystem::path& run) {
  const std::filesystem::path file = metrics_file(run);
  RunMetrics metrics = parse_metrics(read_file(file), file.string());
  if (metrics.truncated) {
    log::warn("{}: the last line is cut off (a run that was killed?) and is left out",
              file.string());
  }
  QUEST_CHECK(!metrics.training.empty() || !metrics.validation.empty(), ErrorKind::kData,
              "{}: no loss in it yet; nothing to plot", file.string());
  metrics.name = run_name(run);
  return metrics;
}

}  // namespace quest::plot
