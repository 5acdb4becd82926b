// The picture of loss curves: for each run the training loss (smoothed, thin) and the validation
// loss (points joined by a line) in one color.
//
//   std::vector<RunMetrics> runs = {read_run_metrics("runs/bf16-..."),
//   read_run_metrics("runs/w4a4-...")}; write_loss_plot(runs, {.title = "KJV"}, "loss.png");
//
// Colors are those of Okabe and Ito, which color-blind readers can tell apart; from the eighth run
// on they repeat with dashes. The vertical range leaves out the fall from the untrained loss: it
// spans what lies behind the first twentieth of the longest run.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "quest/plot/metrics.h"

namespace quest::plot {

enum class XAxis { kTokens, kSteps };

struct LossPlotOptions {
  XAxis x = XAxis::kTokens;
  bool log_x = false;
  bool log_y = false;
  std::string title = "";
  int width = 1400;  // pixels
  int height = 900;
};

// Moving average over a fiftieth of the points, thinned to at most 1000 points.
std::vector<MetricsPoint> smooth_training_loss(std::span<const MetricsPoint> points);

// The gnuplot script, data included; a function of its arguments alone. `extension` is ".png" or
// ".svg" (throws kUsage otherwise). Draws to the gnuplot variable quest_output. Throws kUsage if
// runs is empty or a size is not in 100 to 20000.
std::string loss_plot_script(std::span<const RunMetrics> runs, const LossPlotOptions& options,
                             const std::string& extension);

// Writes the picture; the format follows the extension. Throws as loss_plot_script and run_gnuplot.
void write_loss_plot(std::span<const RunMetrics> runs, const LossPlotOptions& options,
                     const std::filesystem::path& output);

}  // namespace quest::plot
