// quest reproduce: the paper's experiments at a scale, end to end, against what they must show.
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/base/six_digits.h"
#include "quest/base/thread_pool.h"
#include "quest/cli/commands.h"
#include "quest/cli/experiments.h"
#include "quest/cli/model_folder.h"
#include "quest/cli/paper_data.h"
#include "quest/cli/paper_values.h"
#include "quest/cli/sweep_runner.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/plot/gnuplot.h"
#include "quest/plot/paper_figures.h"
#include "quest/plot/sweep_table.h"
#include "quest/train/evaluation.h"
#include "quest/train/run_folder.h"

namespace quest::cli {

namespace fs = std::filesystem;
namespace {

struct ReproduceArguments {
  std::vector<std::string> names;
  std::string scale = "tiny", data = "demo/data", out = "reproduce", device, record, paper_data;
  std::vector<int64_t> seeds = {0};
  int64_t jobs = 0, steps = 0;
  bool dry_run = false, no_pictures = false;
};

// What came of one experiment.
struct Result {
  const Experiment* experiment = nullptr;
  Findings findings;
  std::vector<std::string> different;  // from the stored expectation
  std::string compared;                // with what
  std::string orders_only;             // why with nothing
  bool passed() const {
    const auto& c = findings.checks;
    return different.empty() &&
           std::all_of(c.begin(), c.end(), [](const Check& check) { return check.holds; });
  }
};

class Reproduction {
 public:
  explicit Reproduction(const ReproduceArguments& arguments)
      : a_(arguments), scale_(scale_from_name(arguments.scale)) {}

  Result run(const Experiment& e) {
    Result result{&e, {}, {}, {}, {}};
    if (!e.training) {
      result.findings = refit();
      compare(result);
      draw(e, {});
      return result;
    }
    std::vector<TrainedRun> runs;
    for (const int64_t seed : a_.seeds) {
      const std::vector<TrainedRun> more = train(e, seed);
      if (shutdown_signal() != 0) return result;
      runs.insert(runs.end(), more.begin(), more.end());
    }
    result.findings = e.judge(scale_, runs);
    compare(result);
    draw(e, runs);
    return result;
  }

  void print_plan(const Experiment& e) const {
    fmt::print("{}: {}\n", e.name, e.claim);
    for (const int64_t seed : a_.seeds) {
      if (e.training) fmt::print("seed {}:\n{}", seed, runner(e, seed).plan_text());
    }
    fmt::print("\n");
  }

  fs::path file(const Experiment& e, const char* extension) const {
    return fs::path(a_.out) / fmt::format("{}-{}.{}", e.name, scale_name(scale_), extension);
  }

  // The values of all results, beside what the file holds of others.
  void record(std::span<const Result> results) const {
    nlohmann::ordered_json all = nlohmann::ordered_json::object();
    if (fs::exists(a_.record)) {
      all = nlohmann::ordered_json::parse(read_file(a_.record), nullptr, false);
      QUEST_CHECK(all.is_object(), ErrorKind::kData, "{}: no JSON object", a_.record);
    }
    for (const Result& r : results) {
      const auto [scale, source] = expectation_place(*r.experiment);
      auto& entry = all[scale][source][r.experiment->name];
      for (const auto& [name, value] : r.findings.values) entry[name] = six_digits(value);
    }
    write_file_atomically(a_.record, all.dump(1) + "\n");
    fmt::print("wrote {}\n", a_.record);
  }

 private:
  // A sweep's. One for each seed, so that more seeds go on with the others' runs.
  fs::path folder(const Experiment& e, int64_t seed) const {
    return fs::path(a_.out) / fmt::format("{}-{}", e.name, scale_name(scale_)) /
           fmt::format("seed-{}", seed);
  }

  std::string device() const {
    if (!a_.device.empty()) return a_.device;
    return scale_ == Scale::kTiny ? "cpu" : "cuda";
  }

  train::TrainConfig base(const Experiment& e, int64_t seed) const {
    train::TrainConfig config = e.training(scale_).base;
    config.run.seed = seed;
    config.data.train = a_.data;
    config.train.device = device();
    if (a_.steps > 0) {
      config.train.tokens = 0;
      config.train.steps = a_.steps;
      if (config.diagnostics.every > 0) {
        config.diagnostics.every = std::max<int64_t>(1, a_.steps / 4);
      }
    }
    return config;
  }

  SweepRunner runner(const Experiment& e, int64_t seed) const {
    SweepOptions o;
    o.folder = folder(e, seed);
    // Small models do not fill the cores: a run on each.
    o.jobs = a_.jobs > 0 ? a_.jobs : device() == "cpu" ? default_thread_count() : 1;
    o.retry_failed = true;
    o.stop_on_failure = true;  // an experiment needs all of its runs
    for (const Experiment& other : experiments()) {
      if (other.name != e.name) o.others.push_back(folder(other, seed));
    }
    return SweepRunner(e.training(scale_).sweep, base(e, seed), o);
  }

  std::vector<TrainedRun> train(const Experiment& e, int64_t seed) const {
    SweepRunner sweep = runner(e, seed);
    log::info("{}, seed {}: {}; logs are in {}", e.name, seed,
              format_count(static_cast<int64_t>(sweep.trials().size()), "run"),
              (folder(e, seed) / "logs").string());
    const SweepOutcome outcome = sweep.run();
    std::vector<TrainedRun> runs;
    if (shutdown_signal() != 0) return runs;
    QUEST_CHECK(outcome.errors.empty(), ErrorKind::kData, "{}: trial {} failed: {}", e.name,
                outcome.errors.begin()->first, outcome.errors.begin()->second);
    for (const train::TrialRow& row : outcome.table.rows) {
      QUEST_CHECK(row.loss.has_value(), ErrorKind::kData, "{}: trial {} is {}, without a loss",
                  e.name, row.trial, row.state);
      TrainedRun run;
      run.loss = *row.loss;
      run.folder = folder(e, seed) / row.run;
      run.seed = std::to_string(seed);
      for (size_t k = 0; k < row.values.size(); ++k) {
        run.settings[outcome.table.keys[k]] = row.values[k];
      }
      runs.push_back(std::move(run));
    }
    add_rounded(e, runs);
    return runs;
  }

  // Post-training rounding: BF16 runs once more, with the recipes that the experiment names.
  void add_rounded(const Experiment& e, std::vector<TrainedRun>& runs) const {
    const size_t trained = runs.size();
    for (const std::string& recipe : e.training(scale_).rounded_after) {
      for (size_t k = 0; k < trained; ++k) {
        const auto found = runs[k].settings.find("quant.recipe");
        if (found == runs[k].settings.end() || found->second != "bf16") continue;
        stop_if_asked();
        TrainedRun run = runs[k];
        run.rounded = recipe;
        run.loss = rounded_loss(run, recipe);
        runs.push_back(std::move(run));
      }
    }
  }

  double rounded_loss(const TrainedRun& run, const std::string& recipe) const {
    LoadOptions load;
    load.device = device();
    load.recipe = recipe;
    const LoadedModel loaded = load_model(run.folder, load);
    train::EvaluationOptions evaluation;
    evaluation.sequence_length = loaded.model->config().max_position_embeddings;
    train::SingleProcess group;
    const TokenFile file = TokenFile::open(data_paths().validation);
    return train::evaluate(*loaded.model, file, evaluation, group).loss;
  }

  train::DataPaths data_paths() const {
    train::TrainConfig::Data data;
    data.train = a_.data;
    return train::resolve_data(data);
  }

  // Scale and source under which the file of expectations has an experiment. What trains nothing is
  // the same at every scale; results of other training tokens are no expectation.
  std::pair<std::string, std::string> expectation_place(const Experiment& e) const {
    if (!e.training) return {"any", "paper"};
    const TokenFile tokens = TokenFile::open(data_paths().train.front());
    return {std::string(scale_name(scale_)), fmt::format("{:016x}", tokens.info().data_checksum)};
  }

  Findings refit() const {
    const plot::PaperData paper = plot::read_paper_data(paper_data_folder(a_.paper_data));
    scaling::FitOptions fit;
    fit.bootstrap = 0;
    fit.threads = default_thread_count();
    return judge_law(scaling::fit_scaling_law(paper.runs, fit).law, paper.law);
  }

  // What values are compared with, and how the report calls it; or why there is nothing.
  struct Expectation {
    std::map<std::string, Expected> values;
    std::string origin, none;
  };

  // What this text gave before; at scale paper otherwise what the paper has.
  Expectation expectation(const Experiment& e) const {
    Expectation out;
    out.none = "no stored expectation for this text";
    if (a_.steps > 0) {
      out.none = "with --steps there is no expectation";
      return out;
    }
    const double tolerance = scale_ == Scale::kTiny ? e.tiny_tolerance : e.tolerance;
    const Json all = read_json(expectations_file());
    const auto [scale, source] = expectation_place(e);
    if (all.contains(scale) && all[scale].contains(source) && all[scale][source].contains(e.name)) {
      for (const auto& [name, value] : all[scale][source][e.name].items()) {
        out.values[name] = {value.get<double>(), tolerance};
      }
      out.origin = fmt::format("the stored expectation, within {:g} %", 100 * tolerance);
      out.none = "no stored expectation for these seeds";
    } else if (scale_ == Scale::kPaper) {
      const plot::PaperData paper = plot::read_paper_data(paper_data_folder(a_.paper_data));
      for (const auto& [label, expected] : paper_values(e.name, paper)) {
        for (const int64_t seed : a_.seeds) {
          out.values[fmt::format("{} seed {}", label, seed)] = expected;
        }
      }
      out.origin = "the paper's own, which are of C4: on another text they differ";
    }
    return out;
  }

  void compare(Result& result) const {
    const Expectation expected = expectation(*result.experiment);
    const std::map<std::string, double>& found = result.findings.values;
    const auto here = std::count_if(expected.values.begin(), expected.values.end(),
                                    [&](const auto& item) { return found.contains(item.first); });
    if (here == 0) {
      result.orders_only = expected.none;
      return;
    }
    result.different = differences(found, expected.values);
    result.compared =
        fmt::format("{} compared with {}", format_count(here, "value"), expected.origin);
  }

  void draw(const Experiment& e, const std::vector<TrainedRun>& runs) const {
    if (a_.no_pictures) return;
    plot::Figure figure = e.figure.empty() ? lines(e) : paper_figure(e, runs);
    if (!e.title.empty()) figure.title = e.title;
    figure.scale = 0.6;
    plot::write_figure(figure, file(e, "png"));
  }

  // Of several seeds: all runs where they are points, the mean where they are a map, the first
  // seed's where each is a curve.
  plot::Figure paper_figure(const Experiment& e, const std::vector<TrainedRun>& runs) const {
    plot::FigureOptions options;
    options.perplexity = e.perplexity;
    const plot::OwnData takes = plot::figure_info(e.figure).takes;
    const std::string first = std::to_string(a_.seeds.front());
    if (takes == plot::OwnData::kSweep) {
      options.mean = true;
      for (const int64_t seed : a_.seeds) {
        options.own.push_back(folder(e, seed).string());
        options.labels.push_back(fmt::format("seed {}", seed));
      }
    }
    for (const TrainedRun& run : runs) {
      if (takes == plot::OwnData::kSweep) break;
      if (!run.rounded.empty()) {
        scaling::ScalingRun rounded = scaling::read_run_summary(run.folder);
        rounded.format = run.rounded;
        rounded.loss = run.loss;
        options.own_rounded.push_back(rounded);
        continue;
      }
      if (takes == plot::OwnData::kDiagnostics) {
        if (run.seed != first) continue;
        options.labels.push_back(run_label(run));
      }
      options.own.push_back(run.folder.string());
    }
    plot::PaperData paper;
    if (plot::figure_info(e.figure).has_paper_data) {
      paper = plot::read_paper_data(paper_data_folder(a_.paper_data));
    }
    return plot::paper_figure(e.figure, paper, options);
  }

  plot::Figure lines(const Experiment& e) const {
    std::vector<plot::NamedSweep> sweeps;
    for (const int64_t seed : a_.seeds) {
      sweeps.push_back({fmt::format("seed {}", seed), plot::read_sweep_table(folder(e, seed))});
    }
    plot::Figure figure;
    figure.panels.emplace_back(plot::sweep_chart(sweeps, e.lines_over));
    return figure;
  }

  const ReproduceArguments& a_;
  Scale scale_;
};

std::string report_text(const Result& r, const std::string& command) {
  std::string out = fmt::format("## {}\n\n{}\n\n    {}\n\n{}\n", r.experiment->name,
                                r.experiment->claim, command, r.findings.table);
  for (const Check& check : r.findings.checks) {
    out += fmt::format("- {}: {}\n", check.holds ? "holds" : "FAILS", check.text);
  }
  for (const std::string& line : r.different) out += fmt::format("- DIFFERS: {}\n", line);
  return out + fmt::format("- {}\n", r.orders_only.empty() ? r.compared : r.orders_only);
}

// As a shell takes it.
std::string shell_word(const std::string& text) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("_-./,:=+@%").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// The command that does this again: what differs from the defaults.
std::string command_text(const std::string& name, const ReproduceArguments& a) {
  const ReproduceArguments standard;
  std::string out = "quest reproduce " + name;
  const auto add = [&](const char* option, const auto& value, const auto& usual) {
    if (value != usual) out += fmt::format(" {} {}", option, shell_word(fmt::format("{}", value)));
  };
  add("--scale", a.scale, standard.scale);
  add("--data", a.data, standard.data);
  add("--out", a.out, standard.out);
  add("--seeds", fmt::format("{}", fmt::join(a.seeds, ",")),
      fmt::format("{}", fmt::join(standard.seeds, ",")));
  add("--device", a.device, standard.device);
  add("--jobs", a.jobs, standard.jobs);
  add("--steps", a.steps, standard.steps);
  add("--paper-data", a.paper_data, standard.paper_data);
  if (a.no_pictures) out += " --no-pictures";
  return out;
}

// The same seed twice would be two columns of the same runs.
void check_seeds(const std::vector<int64_t>& seeds) {
  for (auto seed = seeds.begin(); seed != seeds.end(); ++seed) {
    QUEST_CHECK(std::find(seeds.begin(), seed, *seed) == seed, ErrorKind::kUsage,
                "--seeds {}: {} is there twice; give each seed once", fmt::join(seeds, ","), *seed);
  }
}

std::vector<const Experiment*> chosen(const ReproduceArguments& a) {
  std::vector<const Experiment*> out;
  for (const std::string& name : a.names) {
    if (name == "all") {
      for (const Experiment& e : experiments()) out.push_back(&e);
    } else {
      out.push_back(&experiment(name));
    }
  }
  return out;
}

void run_reproduce(const ReproduceArguments& a) {
  const std::vector<const Experiment*> list = chosen(a);
  if (list.empty()) {
    for (const Experiment& e : experiments()) fmt::print("{:<15} {}\n", e.name, e.claim);
    return;
  }
  check_seeds(a.seeds);
  Reproduction reproduction(a);
  const bool trains = std::any_of(list.begin(), list.end(),
                                  [](const Experiment* e) { return e->training != nullptr; });
  QUEST_CHECK(!trains || fs::exists(a.data), ErrorKind::kIo,
              "--data {}: no such folder; `quest data` makes one from text, `make demo` makes "
              "demo/data",
              a.data);
  if (a.dry_run) {
    for (const Experiment* e : list) reproduction.print_plan(*e);
    return;
  }
  if (!a.no_pictures) plot::require_gnuplot();
  install_shutdown_handlers();
  std::error_code error;
  fs::create_directories(a.out, error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot make the folder {}: {}", a.out, error.message());
  std::vector<Result> results;
  for (const Experiment* e : list) {
    Result result = reproduction.run(*e);
    if (shutdown_signal() != 0) {
      log::warn("stopped by a signal; the same command goes on");
      return;
    }
    const std::string text = report_text(result, command_text(e->name, a));
    write_file_atomically(reproduction.file(*e, "md"), text);
    fmt::print("{}\n", text);
    std::fflush(stdout);
    results.push_back(std::move(result));
  }
  if (!a.record.empty()) reproduction.record(results);
  int64_t failed = 0;
  for (const Result& r : results) {
    fmt::print("{:<15} {}\n", r.experiment->name, verdict_text(r.passed(), r.orders_only));
    failed += !r.passed();
  }
  QUEST_CHECK(failed == 0, ErrorKind::kNumeric, "{} of {} not reproduced", failed,
              format_count(static_cast<int64_t>(results.size()), "experiment"));
}

}  // namespace

void add_reproduce_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "reproduce", "the paper's experiments at a scale, against what they must show");
  auto a = std::make_shared<ReproduceArguments>();
  command->add_option("NAME", a->names,
                      "table1, fig2, fig3, fig8, fig10, fig11, fig12, table4, w1a1-stability, or "
                      "all; without a name they are listed");
  command
      ->add_option("--scale", a->scale,
                   "tiny: minutes a run on two cores; small: 3.4 M parameters on 105 M tokens, a "
                   "minute a run on one GPU; paper: its 30M model on 3 billion tokens")
      ->check(CLI::IsMember({"tiny", "small", "paper"}))
      ->capture_default_str();
  command->add_option("--data", a->data, "folder made by `quest data`, with validation tokens")
      ->capture_default_str();
  command
      ->add_option("--out", a->out, "folder of the runs, reports and pictures; goes on with them")
      ->capture_default_str();
  command->add_option("--seeds", a->seeds, "of weights and data order, e.g. 0,1,2; each must pass")
      ->delimiter(',')
      ->check(whole_number_from(0))
      ->capture_default_str();
  command->add_option("--device", a->device, "cpu or cuda (default: cpu at tiny scale, else cuda)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  command
      ->add_option("--jobs", a->jobs,
                   "runs at a time, which share the cores (default: on a CPU one a core)")
      ->check(whole_number_from(1));
  command
      ->add_option("--steps", a->steps,
                   "train so many steps instead of the scale's: to try the way, not the result")
      ->check(whole_number_from(4));
  command->add_option("--record", a->record,
                      "also write the values to this file, as a new expectation");
  command->add_option("--paper-data", a->paper_data,
                      "folder with the paper's numbers (default: data/paper here, in the source "
                      "tree or installed)");
  command->add_flag("--no-pictures", a->no_pictures, "draw nothing (no gnuplot needed)");
  command->add_flag("--dry-run", a->dry_run, "list what would be trained, and train nothing");
  command->callback([a] { run_reproduce(*a); });
}

}  // namespace quest::cli
