#include "quest/cli/sweep_runner.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <deque>
#include <fcntl.h>
#include <memory>
#include <set>
#include <sys/file.h>
#include <thread>
#include <unistd.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/base/thread_pool.h"
#include "quest/base/white_space.h"
#include "quest/cli/child_process.h"
#include "quest/data/token_file.h"
#include "quest/ops/gpu.h"
#include "quest/text/tokenizer.h"
#include "quest/train/checkpoint.h"
#include "quest/train/lr_schedule.h"
#include "quest/train/run_folder.h"
#include "quest/train/source_model.h"

namespace quest::cli {

namespace fs = std::filesystem;
namespace {

using train::Rung;
using train::TrainConfig;
using train::Trial;
using train::TrialRow;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPause{10};  // between looks at the children
constexpr std::chrono::seconds kPatience{60};    // for the lock: children of a killed sweep save

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot create the folder {}: {}", folder.string(),
              error.message());
}

// A folder with other things in it is not filled.
void check_is_ours(const fs::path& folder) {
  if (!fs::exists(folder) || fs::exists(folder / "sweep.toml")) return;
  const std::set<std::string> own = {"runs", "trials", "logs", "failed", ".lock"};
  QUEST_CHECK(fs::is_directory(folder), ErrorKind::kUsage, "{} is no folder", folder.string());
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    QUEST_CHECK(own.count(name) == 1 || name.starts_with("sweep.toml.tmp"), ErrorKind::kUsage,
                "{} holds {} and no sweep: name a new folder (--out)", folder.string(), name);
  }
}

// Held by the sweep and, because it is inherited, by its children: as long as one of them lives no
// other sweep works in the folder.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder) {
    const fs::path file = folder / ".lock";
    fd_ = open(file.c_str(), O_RDWR | O_CREAT, 0666);
    QUEST_CHECK(fd_ >= 0, ErrorKind::kIo, "cannot write {}: {}", file.string(), errno_text(errno));
    const Clock::time_point deadline = Clock::now() + kPatience;
    bool told = false;
    while (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      const bool waits = reason == EWOULDBLOCK && Clock::now() < deadline && shutdown_signal() == 0;
      if (!waits) {
        close(fd_);
        stop_if_asked();
        QUEST_THROW(
            ErrorKind::kIo, "cannot lock {}: {}", file.string(),
            reason == EWOULDBLOCK ? "another sweep or its trials run here" : errno_text(reason));
      }
      if (!told)
        log::info("waiting for another sweep in {}, or its trials, to end", folder.string());
      told = true;
      std::this_thread::sleep_for(kPause);
    }
  }
  ~FolderLock() { close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

// What of the settings is not the same in all runs of one data folder.
class DataCheck {
 public:
  void check(const TrainConfig& config) {
    const train::DataPaths paths = train::resolve_data(config.data);
    const std::string key =
        config.data.train + "\n" + paths.validation.string() + "\n" + paths.tokenizer.string();
    auto known = vocabularies_.find(key);
    if (known == vocabularies_.end()) {
      for (const fs::path& path : paths.train) TokenFile::open(path);
      QUEST_CHECK(
          !paths.validation.empty(), ErrorKind::kUsage,
          "trials are compared by their validation loss, and {} holds no validation tokens: "
          "make them (quest data with --validation-fraction above 0) or name a file "
          "(--validation)",
          config.data.train);
      TokenFile::open(paths.validation);
      known = vocabularies_.emplace(key, load_tokenizer(paths.tokenizer)->vocab_size()).first;
    }
    train::resolve_model(config, known->second);
  }

 private:
  std::map<std::string, int64_t> vocabularies_;
};

// The last line of a log, from `begin` on, that tells an error; else its last line.
std::string last_error_line(const fs::path& log, uintmax_t begin) {
  const std::string all = read_file(log);
  const std::string text = all.substr(std::min<size_t>(begin, all.size()));
  std::string last, error;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = trimmed(std::string_view(text).substr(at, end - at));
    at = end + 1;
    if (line.empty()) continue;
    last = line;
    if (const size_t found = line.find("error: "); found != std::string_view::npos) {
      error = line.substr(found + 7);
    }
  }
  return error.empty() ? last : error;
}

// The settings that are not at their defaults, as TOML. Without a recipe that was not given: with
// run.init the trials take over the folder's.
std::string shared_settings(const TrainConfig& config) {
  TrainConfig copy = config, standard;
  const std::vector<train::Setting> defaults = train::list_settings(standard);
  std::string out;
  size_t index = 0;
  for (const train::Setting& s : train::list_settings(copy)) {
    const bool is_default = s.get() == defaults[index++].get();
    const bool is_quant = s.key.starts_with("quant.");
    if (is_quant ? !config.quant_given : is_default) continue;
    out += fmt::format("{} = {}\n", s.key, train::toml_text(s.get()));
  }
  return out;
}

// The checkpoint that a run ended with, as a path that stays what it is.
std::string final_checkpoint(const fs::path& run) {
  const train::CheckpointScan scan = train::find_checkpoints(run);
  QUEST_CHECK(!scan.valid.empty(), ErrorKind::kData,
              "{} has no whole checkpoint for the next rung to go on from", run.string());
  return fs::proximate(fs::canonical(scan.valid.front())).string();
}

}  // namespace

struct SweepRunner::Worker {
  std::string device;  // empty: none of its own
  std::unique_ptr<ChildProcess> child;
  Run run;
  fs::path folder, log;
  uintmax_t log_begin = 0;
  Clock::time_point start;
};

SweepRunner::SweepRunner(train::Sweep sweep, TrainConfig base, SweepOptions options)
    : sweep_(std::move(sweep)), base_(std::move(base)), options_(std::move(options)) {
  trials_ = train::plan_trials(sweep_);
  const auto count = static_cast<int64_t>(trials_.size());
  QUEST_ASSERT(!sweep_.halving || options_.others.empty(), "halving goes on from runs of its own");
  if (sweep_.halving) {
    rungs_ = train::halving_rungs(sweep_, count, base_.train.steps);
  } else {
    rungs_ = {{0, count}};
  }
  if (!options_.devices.empty()) {
    const std::string reason = ops::gpu_unusable_reason();
    QUEST_CHECK(reason.empty(), ErrorKind::kEnvironment, "--devices: {}", reason);
    base_.train.device = "cuda";
    options_.jobs = static_cast<int64_t>(options_.devices.size());
  }
  for (const auto& [key, value] : trials_.front().settings) outcome_.table.keys.push_back(key);
  for (const Trial& trial : trials_) {
    TrialRow& row = outcome_.table.rows.emplace_back();
    row.trial = trial.name;
    row.state = "pending";
    for (const auto& [key, value] : trial.settings) row.values.push_back(value);
  }
  check_trials();
}

void SweepRunner::check_trials() const {
  DataCheck data;
  for (size_t i = 0; i < trials_.size(); ++i) {
    try {
      for (const Rung& rung : rungs_) {
        TrainConfig config = train::trial_config(base_, trials_[i]);
        if (sweep_.halving) {
          train::apply_setting(config, "train.steps", std::to_string(rung.steps));
        }
        train::finish_config(config);
        train::adopt_source_model(config, /*quiet=*/true);
        data.check(config);
        if (config.train.steps > 0) {
          train::LrSchedule(config.schedule, config.optimizer.lr, config.train.steps);
        }
      }
    } catch (const Error& error) {
      const std::string text = error.what();
      if (text.starts_with("trial ")) throw;
      QUEST_THROW(error.kind(), "trial {} ({}): {}", trials_[i].name,
                  train::settings_text(trials_[i]), text);
    }
  }
}

std::string SweepRunner::run_name(const Run& run) const {
  const std::string& name = trials_[run.trial].name;
  return sweep_.halving ? fmt::format("{}-r{}", name, run.rung + 1) : name;
}

TrainConfig SweepRunner::run_config(const Run& run) const {
  TrainConfig config = train::trial_config(base_, trials_[run.trial]);
  config.run.folder = (options_.folder / "runs").string();
  config.run.name = run_name(run);
  if (config.run.threads == 0) {
    config.run.threads = std::max<int64_t>(1, default_thread_count() / options_.jobs);
  }
  if (sweep_.halving) {
    train::apply_setting(config, "train.steps", std::to_string(rungs_[run.rung].steps));
    if (run.rung > 0 && train::goes_on_from_checkpoint(config)) {
      config.run.init.clear();
      config.run.parent = final_checkpoint(options_.folder / outcome_.table.rows[run.trial].run);
    }
  }
  config.run.init = train::resolve_source(config.run.init);  // as `quest train` does
  train::finish_config(config);
  train::adopt_source_model(config, /*quiet=*/true);
  return config;
}

std::string SweepRunner::plan_text() const {
  std::string out;
  if (sweep_.halving) {
    for (size_t i = 0; i < rungs_.size(); ++i) {
      out += fmt::format("rung {}  {} to step {}\n", i + 1, format_count(rungs_[i].trials, "trial"),
                         rungs_[i].steps);
    }
    const auto goes_on = std::count_if(trials_.begin(), trials_.end(), [&](const Trial& trial) {
      return train::goes_on_from_checkpoint(train::trial_config(base_, trial));
    });
    out += goes_on == static_cast<std::ptrdiff_t>(trials_.size())
               ? "a promoted trial goes on from its checkpoint\n"
           : goes_on == 0
               ? "a promoted trial is trained anew: its learning rate depends on how many steps "
                 "there are (schedule constant with warm-up in steps goes on instead)\n"
               : "a promoted trial goes on from its checkpoint if its schedule is constant, and is "
                 "trained anew otherwise\n";
    out += "\n";
  }
  for (const Trial& trial : trials_) {
    out += fmt::format("{}  {}\n", trial.name, train::settings_text(trial));
  }
  return out;
}

void SweepRunner::prepare_folder() const {
  for (const char* name : {"runs", "trials", "logs", "failed"}) {
    make_folder(options_.folder / name);
  }
  remove_stale_temporaries(options_.folder);
  const fs::path record = options_.folder / "sweep.toml";
  if (fs::exists(record)) {
    train::TomlTable table = train::parse_toml_file(record);
    train::Sweep found;
    train::take_sweep(table, found);
    TrainConfig settings;
    train::apply_toml(settings, table);
    // More draws begin with those that there are; halving chooses among all.
    const bool grown = !sweep_.halving && found.trials < sweep_.trials;
    if (grown) found.trials = sweep_.trials;
    QUEST_CHECK(found == sweep_ && train::config_hash(settings) == train::config_hash(base_),
                ErrorKind::kUsage,
                "{} holds another sweep than this: its axes, its seed, or settings that all trials "
                "share differ from {}; give this one another folder (--out)",
                options_.folder.string(), record.string());
    if (!grown) return;
  }
  write_file_atomically(record, shared_settings(base_) + "\n" + train::sweep_to_toml(sweep_));
}

// False: the run has not ended.
bool SweepRunner::take_result(const Run& run, const fs::path& folder) {
  const fs::path path = folder / "summary.json";
  if (!fs::exists(path)) return false;
  const std::string where = path.string();
  const Json json = read_json(path);
  const double loss = json_get_or<double>(json, "validation_loss", std::nan(""), where);
  TrialRow& row = outcome_.table.rows[run.trial];
  row.run = fs::relative(folder, options_.folder).string();
  row.steps = json_get<int64_t>(json, "steps", where);
  row.tokens = json_get<int64_t>(json, "tokens", where);
  if (!std::isfinite(loss)) {
    fail(run, "the validation loss is not finite");
    return true;
  }
  row.loss = loss;
  row.state = run.rung + 1 == rungs_.size() ? "done" : "pending";
  return true;
}

// A run's folder ends with the hash of all settings that decide about its result, the text's place
// among them.
bool SweepRunner::take_from_others(const Run& run, const TrainConfig& config) {
  const std::string ending = "-" + train::config_hash(config);
  for (const fs::path& sweep : options_.others) {
    if (!fs::is_directory(sweep / "runs")) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(sweep / "runs")) {
      if (!entry.path().filename().string().ends_with(ending)) continue;
      if (!take_result(run, entry.path())) continue;
      log::info("{} is trained already: {}", outcome_.table.rows[run.trial].trial,
                entry.path().string());
      return true;
    }
  }
  return false;
}

void SweepRunner::fail(const Run& run, const std::string& error) {
  TrialRow& row = outcome_.table.rows[run.trial];
  row.state = "failed";
  row.loss.reset();
  outcome_.errors[row.trial] = error;
  write_file_atomically(failure_file(run), error + "\n");
}

fs::path SweepRunner::failure_file(const Run& run) const {
  return options_.folder / "failed" / (run_name(run) + ".txt");
}

// Of this run, the time before.
bool SweepRunner::has_failed(const Run& run) {
  const fs::path file = failure_file(run);
  if (!fs::exists(file)) return false;
  if (options_.retry_failed) {
    fs::remove(file);
    return false;
  }
  TrialRow& row = outcome_.table.rows[run.trial];
  row.state = "failed";
  row.loss.reset();
  outcome_.errors[row.trial] = std::string(trimmed(read_file(file)));
  return true;
}

void SweepRunner::write_table() const {
  write_file_atomically(options_.folder / "trials.csv", train::trials_csv(outcome_.table));
}

void SweepRunner::drop_weights() const {
  if (!options_.keep_best_only) return;
  // A run whose process has not been seen to end may have its summary already, but no result yet.
  std::set<fs::path> kept = under_way_;
  for (const TrialRow& row : outcome_.table.rows) {
    if (row.state == "pending" && !row.run.empty()) kept.insert(options_.folder / row.run);
  }
  const std::vector<const TrialRow*> ranked = train::ranking(outcome_.table);
  if (!ranked.empty()) kept.insert(options_.folder / ranked.front()->run);
  for (const fs::directory_entry& run : fs::directory_iterator(options_.folder / "runs")) {
    const bool has_ended =
        run.is_directory() && !run.is_symlink() && fs::exists(run.path() / "summary.json");
    if (!has_ended || kept.contains(run.path())) continue;
    for (const char* weights : {"checkpoints", "final"}) fs::remove_all(run.path() / weights);
  }
}

bool SweepRunner::is_stopping() const { return outcome_.interrupted || shutdown_signal() != 0; }

void SweepRunner::start(Worker& worker, const Run& run) {
  const TrainConfig config = run_config(run);
  const std::string name = config.run.name;
  worker.run = run;
  worker.folder = fs::path(config.run.folder) / train::run_folder_name(config);
  worker.log = options_.folder / "logs" / (name + ".log");
  worker.log_begin = fs::exists(worker.log) ? fs::file_size(worker.log) : 0;
  worker.start = Clock::now();
  const fs::path settings = options_.folder / "trials" / (name + ".toml");
  write_file_atomically(settings, train::config_to_toml(config));
  ChildOptions child;
  child.arguments = {"train", "--config", settings.string()};
  if (!worker.device.empty()) child.environment = {{"CUDA_VISIBLE_DEVICES", worker.device}};
  child.log = worker.log;
  worker.child = std::make_unique<ChildProcess>(child);
  under_way_.insert(worker.folder);
}

void SweepRunner::finish(Worker& worker, int code) {
  worker.child.reset();
  under_way_.erase(worker.folder);
  const bool asked_to_stop = is_stopping() && (code == 128 + SIGINT || code == 128 + SIGTERM);
  if (asked_to_stop) return;  // saved, or not begun: pending
  const double seconds = std::chrono::duration<double>(Clock::now() - worker.start).count();
  if (code != 0 || !take_result(worker.run, worker.folder)) {
    std::string error = last_error_line(worker.log, worker.log_begin);
    if (error.empty() || code > 128) {
      error = code > 128 ? fmt::format("ended by signal {}", code - 128)
                         : fmt::format("ended with exit code {} and no message", code);
    }
    fail(worker.run, error);
    if (options_.stop_on_failure) outcome_.interrupted = true;
  }
  print_line(worker.run, seconds);
  write_table();
  drop_weights();
}

void SweepRunner::print_line(const Run& run, double seconds) {
  const TrialRow& row = outcome_.table.rows[run.trial];
  const std::string rung = sweep_.halving ? fmt::format("rung {} ", run.rung + 1) : "";
  std::string result = row.loss ? fmt::format("loss {:.4f}  step {}  {}", *row.loss, row.steps,
                                              format_duration(seconds))
                                : "failed: " + outcome_.errors[row.trial];
  fmt::print("{}[{}/{}] {}  {}  {}\n", rung, ++ended_, in_rung_, row.trial,
             train::settings_text(trials_[run.trial]), result);
  std::fflush(stdout);
}

void SweepRunner::train_rung(size_t rung, const std::vector<size_t>& members) {
  std::deque<Run> waiting;
  ended_ = 0;
  in_rung_ = members.size();
  for (const size_t i : members) {
    const Run run{i, rung};
    if (has_failed(run)) {
      ++ended_;
      continue;
    }
    const TrainConfig config = run_config(run);
    const fs::path folder = fs::path(config.run.folder) / train::run_folder_name(config);
    if (take_result(run, folder) || take_from_others(run, config)) {
      ++ended_;
    } else {
      waiting.push_back(run);
    }
  }
  if (ended_ > 0) log::info("{} of {} ended before", ended_, format_count(in_rung_, "trial"));
  write_table();

  std::vector<Worker> workers(static_cast<size_t>(options_.jobs));
  for (size_t i = 0; i < options_.devices.size(); ++i) workers[i].device = options_.devices[i];
  bool told = false;
  for (bool running = true; running;) {
    if (is_stopping() && !told) {
      const int signal_number = shutdown_signal() != 0 ? shutdown_signal() : SIGTERM;
      for (Worker& worker : workers) {
        if (worker.child) worker.child->send(signal_number);
      }
      told = true;
    }
    running = false;
    for (Worker& worker : workers) {
      if (worker.child) {
        if (const std::optional<int> code = worker.child->poll()) finish(worker, *code);
      }
      if (!worker.child && !waiting.empty() && !is_stopping()) {
        start(worker, waiting.front());
        waiting.pop_front();
      }
      running |= worker.child != nullptr;
    }
    if (running) std::this_thread::sleep_for(kPause);
  }
}

SweepOutcome SweepRunner::run() {
  check_is_ours(options_.folder);
  make_folder(options_.folder);
  const FolderLock lock(options_.folder);
  prepare_folder();
  std::vector<size_t> members(trials_.size());
  for (size_t i = 0; i < members.size(); ++i) members[i] = i;
  for (size_t rung = 0; rung < rungs_.size() && !members.empty(); ++rung) {
    train_rung(rung, members);
    if (is_stopping() || rung + 1 == rungs_.size()) break;
    std::vector<std::optional<double>> losses(trials_.size());
    for (const size_t i : members) losses[i] = outcome_.table.rows[i].loss;
    const std::vector<size_t> best = train::promoted(losses, rungs_[rung + 1].trials);
    for (const size_t i : members) {
      TrialRow& row = outcome_.table.rows[i];
      const bool goes_on = std::find(best.begin(), best.end(), i) != best.end();
      if (!goes_on && row.state == "pending") row.state = "stopped";
    }
    members = best;
    write_table();
    drop_weights();
  }
  outcome_.interrupted |= shutdown_signal() != 0;
  drop_weights();
  return outcome_;
}

SweepOutcome read_sweep(const fs::path& folder) {
  SweepOutcome outcome;
  const fs::path csv = folder / "trials.csv";
  QUEST_CHECK(fs::exists(csv), ErrorKind::kIo, "{}: no trials.csv; is it the folder of a sweep?",
              folder.string());
  outcome.table = train::read_trials_csv(csv);
  QUEST_CHECK(!outcome.table.rows.empty(), ErrorKind::kData,
              "{}: ends after its heading, without a trial; `quest sweep --out {}` writes it anew",
              csv.string(), folder.string());
  if (!fs::exists(folder / "failed")) return outcome;
  for (const auto& file : fs::directory_iterator(folder / "failed")) {
    if (file.path().extension() != ".txt") continue;      // one that is being written
    const std::string run = file.path().stem().string();  // "001" or "001-r2"
    outcome.errors[run.substr(0, run.find('-'))] = std::string(trimmed(read_file(file.path())));
  }
  return outcome;
}

}  // namespace quest::cli
