// quest plot: the loss curves of runs as a PNG or SVG picture; below it, the paper's figures.
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/cli/commands.h"
#include "quest/plot/loss_plot.h"
#include "quest/plot/paper_figures.h"

namespace quest::cli {
namespace {

struct PlotArguments {
  std::vector<std::string> runs;
  std::vector<std::string> labels;
  std::string output = "loss.png";
  std::string x = "tokens";
  plot::LossPlotOptions options;
};

void run_plot(const PlotArguments& arguments) {
  QUEST_CHECK(!arguments.runs.empty(), ErrorKind::kUsage,
              "no runs to plot; name run folders or metrics.jsonl files, or one of the paper's "
              "figures (`quest plot figures` lists them)");
  QUEST_CHECK(arguments.labels.empty() || arguments.labels.size() == arguments.runs.size(),
              ErrorKind::kUsage, "--label was given {} times for {} runs; give one for each run",
              arguments.labels.size(), arguments.runs.size());
  std::vector<plot::RunMetrics> runs;
  for (size_t i = 0; i < arguments.runs.size(); ++i) {
    const bool looks_like_figure =
        arguments.runs[i].starts_with("fig") && !std::filesystem::exists(arguments.runs[i]);
    if (looks_like_figure) plot::figure_info(arguments.runs[i]);  // throws: lists the figures
    runs.push_back(plot::read_run_metrics(arguments.runs[i]));
    if (!arguments.labels.empty()) runs.back().name = arguments.labels[i];
  }
  plot::LossPlotOptions options = arguments.options;
  options.x = arguments.x == "steps" ? plot::XAxis::kSteps : plot::XAxis::kTokens;
  plot::write_loss_plot(runs, options, arguments.output);
  fmt::print("wrote {}\n", arguments.output);
}

}  // namespace

void add_plot_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "plot", "loss curves of runs, or the paper's figures, as pictures (PNG, SVG)");
  auto arguments = std::make_shared<PlotArguments>();
  command->add_option("RUN", arguments->runs,
                      "run folders, or metrics.jsonl files, whose loss curves to draw (write "
                      "./fig1 for a run that is called like a figure)");
  command->add_option("--out", arguments->output, "the picture; its name must end in .png or .svg")
      ->capture_default_str();
  command->add_option("--x", arguments->x, "horizontal axis")
      ->check(CLI::IsMember({"tokens", "steps"}))
      ->capture_default_str();
  command
      ->add_option("--label", arguments->labels,
                   "name in the legend, once per run (default: the run folder's name)")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--title", arguments->options.title, "title above the picture");
  command->add_flag("--log-x", arguments->options.log_x, "logarithmic horizontal axis");
  command->add_flag("--log-y", arguments->options.log_y, "logarithmic loss axis");
  command->add_option("--width", arguments->options.width, "pixels, 100 to 20000")
      ->capture_default_str();
  command->add_option("--height", arguments->options.height, "pixels, 100 to 20000")
      ->capture_default_str();
  command->callback([command, arguments] {
    if (command->get_subcommands().empty()) run_plot(*arguments);
  });
  command->require_subcommand(0, 1);
  add_figure_commands(*command);
}

}  // namespace quest::cli
