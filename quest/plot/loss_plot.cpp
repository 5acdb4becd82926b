#include "quest/plot/loss_plot.h"

#include <algorithm>
#include <cmath>

#include "quest/base/error.h"
#include "quest/plot/chart_axis.h"
#include "quest/plot/chart_style.h"
#include "quest/plot/gnuplot.h"

namespace quest::plot {
namespace {

constexpr int64_t kMaxPoints = 1000;
constexpr int64_t kSmoothingParts = 50;
constexpr double kSkippedStart = 0.05;
constexpr double kLogStart = 0.01;

double x_of(const MetricsPoint& point, XAxis axis) {
  return static_cast<double>(axis == XAxis::kTokens ? point.tokens : point.step);
}

// The horizontal axis: its end and the unit its numbers are given in, so that they stay short.
struct HorizontalAxis {
  double end = 0;
  double unit = 1;
  std::string label;
};

HorizontalAxis horizontal_axis(std::span<const RunMetrics> runs, XAxis axis) {
  HorizontalAxis result;
  for (const RunMetrics& run : runs) {
    for (const std::vector<MetricsPoint>* curve : {&run.training, &run.validation}) {
      for (const MetricsPoint& p : *curve) result.end = std::max(result.end, x_of(p, axis));
    }
  }
  result.label = axis == XAxis::kTokens ? "training tokens" : "optimizer steps";
  const std::pair<double, const char*> units[] = {
      {1e12, "trillions"}, {1e9, "billions"}, {1e6, "millions"}, {1e3, "thousands"}};
  for (const auto& [unit, name] : units) {
    // Steps are read as counts up to a hundred thousand.
    if (result.end < unit || (axis == XAxis::kSteps && result.end < 1e5)) continue;
    result.unit = unit;
    result.label += fmt::format(" ({})", name);
    break;
  }
  return result;
}

// What the vertical axis must show. Falls back on all points where so few are behind the start.
Range loss_range(std::span<const RunMetrics> runs,
                 std::span<const std::vector<MetricsPoint>> smoothed, XAxis axis, double x_end) {
  const auto each_curve = [&](auto&& visit) {
    for (size_t i = 0; i < runs.size(); ++i) {
      visit(smoothed[i]);
      visit(runs[i].validation);
    }
  };
  Range shown, all;
  each_curve([&](const std::vector<MetricsPoint>& curve) {
    for (const MetricsPoint& p : curve) {
      all.include(p.loss);
      if (x_of(p, axis) >= kSkippedStart * x_end) shown.include(p.loss);
    }
  });
  return shown.is_empty() ? all : shown;
}

void append_datablock(std::string& script, const std::string& name,
                      std::span<const MetricsPoint> points, const LossPlotOptions& options,
                      double unit) {
  script += fmt::format("${} << EOD\n", name);
  for (const MetricsPoint& p : points) {
    const double x = x_of(p, options.x);
    if (options.log_x && x <= 0) continue;
    script += fmt::format("{:.9g} {:.6f}\n", x / unit, p.loss);
  }
  script += "EOD\n";
}

std::string legend_text(const RunMetrics& run) {
  if (run.validation.empty()) return run.name;
  return fmt::format("{}: {:.3f}", run.name, run.validation.back().loss);
}

void append_axes(std::string& script, const LossPlotOptions& options, const HorizontalAxis& x,
                 Range loss) {
  script += fmt::format("set xlabel '{}'\n", x.label);
  script += "set ylabel 'loss (nats per token)'\n";
  if (options.log_x) script += "set logscale x\n";
  if (options.log_y) script += "set logscale y\n";
  if (x.end > 0) {
    const double end = x.end / x.unit;
    script += options.log_x
                  ? fmt::format("set xrange [{:.6g}:{:.6g}]\n", kLogStart * end, 1.05 * end)
                  : fmt::format("set xrange [0:{:.6g}]\n", 1.02 * end);
  }
  const double margin = std::max(0.04 * (loss.high - loss.low), 1e-3);
  const double low = options.log_y ? 0.98 * loss.low : loss.low - margin;
  script += options.log_y && loss.low <= 0
                ? fmt::format("set yrange [*:{:.6g}]\n", loss.high + margin)
                : fmt::format("set yrange [{:.6g}:{:.6g}]\n", low, loss.high + margin);
}

void append_curves(std::string& script, std::span<const RunMetrics> runs) {
  std::string curves;
  const auto add = [&](const std::string& curve) {
    curves += (curves.empty() ? "plot " : ", \\\n     ") + curve;
  };
  for (size_t i = 0; i < runs.size(); ++i) {
    const char* color = kColors[i % kColors.size()];
    const size_t dash = 1 + i / kColors.size() % 5;
    const std::string title = gnuplot_quote(legend_text(runs[i]));
    const bool validated = !runs[i].validation.empty();
    if (!runs[i].training.empty()) {
      add(fmt::format("$training{} with lines lw 1.5 dt {} lc rgb '#{}{}' {}", i, dash,
                      validated ? "80" : "", color, validated ? "notitle" : "title " + title));
    }
    if (validated) {
      add(fmt::format("$validation{} with linespoints lw 3 pt 7 ps 1.2 dt {} lc rgb '#{}' title {}",
                      i, dash, color, title));
    }
  }
  script += curves + "\n";
}

}  // namespace

std::vector<MetricsPoint> smooth_training_loss(std::span<const MetricsPoint> points) {
  const auto n = static_cast<int64_t>(points.size());
  const int64_t reach = n / kSmoothingParts / 2;  // to each side
  const int64_t stride = (n + kMaxPoints - 1) / std::max<int64_t>(kMaxPoints, 1);
  std::vector<double> sums(static_cast<size_t>(n) + 1, 0.0);
  for (int64_t i = 0; i < n; ++i) sums[i + 1] = sums[i] + points[i].loss;
  std::vector<MetricsPoint> smoothed;
  for (int64_t i = 0; i < n; i += stride) {
    // At the steep start the window stays centred, so that the curve does not lag; at the flat end
    // it is cut off, so that the curve does not end in the noise of single steps.
    const int64_t side = std::min(reach, i), last = std::min(i + side, n - 1);
    MetricsPoint point = points[i];
    point.loss = (sums[last + 1] - sums[i - side]) / static_cast<double>(last - i + side + 1);
    smoothed.push_back(point);
  }
  return smoothed;
}

std::string loss_plot_script(std::span<const RunMetrics> runs, const LossPlotOptions& options,
                             const std::string& extension) {
  QUEST_CHECK(!runs.empty(), ErrorKind::kUsage, "no runs to plot");
  std::string script = script_start(extension, options.width, options.height);
  std::vector<std::vector<MetricsPoint>> smoothed;
  for (const RunMetrics& run : runs) smoothed.push_back(smooth_training_loss(run.training));

  if (!options.title.empty()) {
    script += fmt::format("set title {}\n", gnuplot_quote(options.title));
  }
  const HorizontalAxis x = horizontal_axis(runs, options.x);
  append_axes(script, options, x, loss_range(runs, smoothed, options.x, x.end));
  script += kAxesStyle;
  script +=
      "set key top right opaque samplen 2 spacing 1.2 width 1\n"
      "set label 1 'dots: validation, thin line: training (smoothed)' at graph 0.01, graph 0.02 "
      "left tc rgb '#606060' font ',15'\n";
  for (size_t i = 0; i < runs.size(); ++i) {
    append_datablock(script, fmt::format("training{}", i), smoothed[i], options, x.unit);
    append_datablock(script, fmt::format("validation{}", i), runs[i].validation, options, x.unit);
  }
  append_curves(script, runs);
  return script + "unset output\n";
}

void write_loss_plot(std::span<const RunMetrics> runs, const LossPlotOptions& options,
                     const std::filesystem::path& output) {
  run_gnuplot(loss_plot_script(runs, options, output.extension().string()), output);
}

}  // namespace quest::plot
