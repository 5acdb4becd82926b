// quest plot fig1 ... fig14, table4, all, figures: the paper's figures, with own data laid over.
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/thread_pool.h"
#include "quest/cli/commands.h"
#include "quest/cli/law_options.h"
#include "quest/cli/paper_data.h"
#include "quest/plot/gnuplot.h"
#include "quest/plot/paper_figures.h"

namespace quest::cli {
namespace {

namespace fs = std::filesystem;

struct FigureArguments {
  std::string output, paper_data, title;
  std::vector<std::string> fit;
  double memory_gb = 0.4;
  double scale = 1;
  plot::FigureOptions options;
};

struct AllArguments {
  std::string folder, format = "png", paper_data;
  std::vector<std::string> fit;
  double scale = 1;
};

std::optional<scaling::ScalingLaw> fitted_law(const std::vector<std::string>& inputs) {
  if (inputs.empty()) return std::nullopt;
  scaling::FitOptions options;
  options.bootstrap = 0;
  options.threads = default_thread_count();
  const std::vector<scaling::ScalingRun> runs = scaling::read_runs(inputs);
  scaling::FitResult fit = scaling::fit_scaling_law(runs, options);
  warn_about_fit(fit, runs);
  return std::move(fit.law);
}

void run_figure(const std::string& name, const FigureArguments& arguments) {
  plot::FigureOptions options = arguments.options;
  options.own_law = fitted_law(arguments.fit);
  options.memory_bytes = 1e9 * arguments.memory_gb;
  plot::PaperData paper;
  if (plot::figure_info(name).has_paper_data) {
    paper = plot::read_paper_data(paper_data_folder(arguments.paper_data));
  }
  plot::Figure figure = plot::paper_figure(name, paper, options);
  if (!arguments.title.empty()) figure.title = arguments.title;
  figure.scale = arguments.scale;
  plot::write_figure(figure, arguments.output);
  fmt::print("wrote {}\n", arguments.output);
}

void run_all(const AllArguments& arguments) {
  plot::require_gnuplot();
  const plot::PaperData paper = plot::read_paper_data(paper_data_folder(arguments.paper_data));
  plot::FigureOptions options;
  options.own_law = fitted_law(arguments.fit);
  std::error_code error;
  fs::create_directories(arguments.folder, error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot make the folder {}: {}", arguments.folder,
              error.message());
  for (const plot::FigureInfo& info : plot::paper_figures()) {
    if (!info.has_paper_data) {
      fmt::print("left out {}: data/paper has no numbers of it; give own data: {}\n", info.name,
                 info.own);
      continue;
    }
    const fs::path output =
        fs::path(arguments.folder) / fmt::format("{}.{}", info.name, arguments.format);
    plot::Figure figure = plot::paper_figure(info.name, paper, options);
    figure.scale = arguments.scale;
    plot::write_figure(figure, output);
    fmt::print("wrote {}\n", output.string());
  }
}

void list_figures() {
  for (const plot::FigureInfo& info : plot::paper_figures()) {
    fmt::print("{:<7} {}\n        own data: {}{}\n", info.name, info.shows, info.own,
               info.has_paper_data ? "" : " (needed: data/paper has no numbers of this figure)");
  }
}

void add_paper_options(CLI::App* command, std::string& paper_data) {
  command->add_option("--paper-data", paper_data,
                      "folder with the paper's numbers (default: data/paper here, in the source "
                      "tree or installed)");
}

void add_fit_option(CLI::App* command, std::vector<std::string>& fit) {
  command
      ->add_option("--fit", fit,
                   "fit the law to these runs (folders, tables) instead of taking the authors'")
      ->take_all();
}

void add_scale_option(CLI::App* command, double& scale) {
  command->add_option("--scale", scale, "a PNG larger or smaller, letters and lines too")
      ->check(CLI::Range(0.2, 10.0))
      ->capture_default_str();
}

void add_sweep_options(CLI::App* command, plot::FigureOptions& options) {
  command->add_option("--x", options.x_key, "setting on the horizontal axis, e.g. optimizer.lr");
  command->add_option("--y", options.y_key,
                      "setting on the vertical axis, e.g. quant.weight.trust_scale (default: the "
                      "two that the sweep varies)");
  command->add_flag("--perplexity", options.perplexity, "exp(loss) in place of the loss");
  command->add_flag("--mean", options.mean,
                    "one map of the mean of the sweeps' losses, as of seeds, instead of one each");
}

void add_own_options(CLI::App* command, const plot::FigureInfo& info,
                     plot::FigureOptions& options) {
  if (info.takes == plot::OwnData::kLaw) return;
  command->add_option("OWN", options.own, fmt::format("own data: {}", info.own));
  if (info.has_paper_data) {
    command->add_flag("--own-only", options.own_only, "leave out the paper's points");
  }
  if (info.takes == plot::OwnData::kRuns) return;
  command
      ->add_option("--label", options.labels, "name of own data, once for each (default: the path)")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

// `runs`, of `quest plot RUN...`, was not given beside a figure.
void check_alone(const CLI::Option& runs, const std::string& name) {
  QUEST_CHECK(runs.count() == 0, ErrorKind::kUsage,
              "runs and a figure: own data of {} come behind its name; write ./{} if it is a run",
              name, name);
}

void add_figure_command(CLI::App& plot_command, const CLI::Option* runs,
                        const plot::FigureInfo& info) {
  const std::string name(info.name);
  CLI::App* command = plot_command.add_subcommand(name, std::string(info.shows));
  auto arguments = std::make_shared<FigureArguments>();
  arguments->output = name + ".png";
  add_own_options(command, info, arguments->options);
  command->add_option("--out", arguments->output, "the picture; its name must end in .png or .svg")
      ->capture_default_str();
  if (info.has_paper_data) add_paper_options(command, arguments->paper_data);
  if (info.uses_law) add_fit_option(command, arguments->fit);
  if (info.takes == plot::OwnData::kSweep) add_sweep_options(command, arguments->options);
  if (info.name == "fig8") {
    command->add_option("--side", arguments->options.side, "of own runs: weights or inputs")
        ->check(CLI::IsMember({"weight", "input"}))
        ->capture_default_str();
  }
  if (info.name == "fig14") {
    command->add_option("--memory", arguments->memory_gb, "of the weights, in GB")
        ->check(CLI::Range(1e-6, 1e6))
        ->capture_default_str();
  }
  command->add_option("--title", arguments->title, "title above the picture");
  add_scale_option(command, arguments->scale);
  command->callback([name, arguments, runs] {
    check_alone(*runs, name);
    run_figure(name, *arguments);
  });
}

}  // namespace

void add_figure_commands(CLI::App& plot_command) {
  const CLI::Option* runs = plot_command.get_option("RUN");
  for (const plot::FigureInfo& info : plot::paper_figures()) {
    add_figure_command(plot_command, runs, info);
  }
  CLI::App* all =
      plot_command.add_subcommand("all", "every figure that has data of the paper, into a folder");
  auto arguments = std::make_shared<AllArguments>();
  all->add_option("--out-dir", arguments->folder, "the folder; made if it is missing")->required();
  all->add_option("--format", arguments->format, "of the pictures")
      ->check(CLI::IsMember({"png", "svg"}))
      ->capture_default_str();
  add_paper_options(all, arguments->paper_data);
  add_fit_option(all, arguments->fit);
  add_scale_option(all, arguments->scale);
  all->callback([arguments, runs] {
    check_alone(*runs, "all");
    run_all(*arguments);
  });
  plot_command.add_subcommand("figures", "list the figures and the own data that each takes")
      ->callback([runs] {
        check_alone(*runs, "figures");
        list_figures();
      });
}

}  // namespace quest::cli
