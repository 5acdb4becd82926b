// The figures of the paper (QuEST, arXiv 2502.05003): each from the paper's numbers and, laid over
// them, from the user's own.
//
//   PaperData paper = read_paper_data("data/paper");
//   write_figure(paper_figure("fig3", paper, {.own = {"runs/w4a4-1b2c3d4e"}}), "fig3.png");
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/plot/chart.h"
#include "quest/plot/paper_data.h"

namespace quest::plot {

enum class OwnData {
  kRuns,         // tables of runs and folders of finished runs (as `quest fit` takes them)
  kDiagnostics,  // folders of runs with diagnostics
  kTimings,      // JSON files of the shape of the paper's
  kSweep,        // folders of sweeps
  kLaw,          // a law alone
};

struct FigureInfo {
  std::string_view name;   // "fig1", ..., "table4"
  std::string_view shows;  // one line
  std::string_view own;    // what own data it takes, one line
  OwnData takes = OwnData::kRuns;
  bool has_paper_data = true;  // without it, the figure is drawn from own data alone
  bool uses_law = false;
};

// All figures, in the order of the paper.
std::span<const FigureInfo> paper_figures();
// Throws kUsage, listing all.
const FigureInfo& figure_info(std::string_view name);

struct FigureOptions {
  std::vector<std::string> own = {};     // paths, of the kind that the figure takes
  std::vector<std::string> labels = {};  // of own, in the legend; empty: the paths' last part
  // fig3: own BF16 models that were rounded after training: the format is what they were rounded
  // to.
  std::vector<scaling::ScalingRun> own_rounded = {};
  bool own_only = false;                            // leave out the paper's points
  std::optional<scaling::ScalingLaw> own_law = {};  // instead of the authors' (fig4: beside it)
  std::string side = "weight";                      // fig8: "weight" or "input"
  double memory_bytes = 0.4e9;                      // fig14: of the weights
  std::string x_key = {}, y_key = {};               // sweeps: settings; empty: the two that vary
  bool perplexity = false;                          // sweeps: exp(loss)
  bool mean = false;                                // sweeps: one map, of the mean of own losses
};

// Throws kUsage for options that do not fit (own data for a figure that takes none, nothing to
// draw, more labels than data), kIo and kData for own files.
Figure paper_figure(std::string_view name, const PaperData& paper, const FigureOptions& options);

}  // namespace quest::plot
