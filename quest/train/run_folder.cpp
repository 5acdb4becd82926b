#include "quest/train/run_folder.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/data/data_folder.h"
#include "quest/train/checkpoint.h"

namespace quest::train {

namespace fs = std::filesystem;
namespace {

// Links resolved.
bool is_within(const fs::path& path, const fs::path& folder) {
  std::error_code error;
  const fs::path rest = fs::relative(path, folder, error);
  return !error && !rest.empty() && *rest.begin() != "..";
}

}  // namespace

RunFolder::RunFolder(const TrainConfig& config, bool writer)
    : path_(fs::path(config.run.folder) / run_folder_name(config)) {
  if (!writer) return;
  std::error_code error;
  made_ = fs::create_directories(path_, error);
  if (!error) fs::create_directory(path_ / "checkpoints", error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot create the folder {}: {}", path_.string(),
              error.message());
  lock();
  try {
    // What killed processes left.
    remove_stale_temporaries(path_);
    remove_stale_temporaries(path_ / "checkpoints");
    const fs::path config_path = path_ / "config.toml";
    if (fs::exists(config_path)) {
      TrainConfig found;
      apply_toml(found, parse_toml_file(config_path));
      QUEST_CHECK(config_hash(found) == config_hash(config), ErrorKind::kData,
                  "{} is not the configuration that this folder is named after: it was edited; "
                  "train with --config {} to make another run of it",
                  config_path.string(), config_path.string());
    } else {
      write_file_atomically(config_path, config_to_toml(config));
    }
  } catch (...) {
    remove_if_nothing_came_of_it();
    close(lock_fd_);
    throw;
  }
}

RunFolder::~RunFolder() {
  remove_if_nothing_came_of_it();
  if (lock_fd_ >= 0) close(lock_fd_);
}

// Only what the constructor made; a folder that holds anything else stays.
void RunFolder::remove_if_nothing_came_of_it() const {
  if (!made_ || kept_) return;
  std::error_code ignored;
  if (!fs::remove(path_ / "checkpoints", ignored)) return;
  fs::remove(path_ / "config.toml", ignored);
  fs::remove(path_ / ".lock", ignored);
  fs::remove(path_, ignored);
}

void RunFolder::lock() {
  const fs::path file = path_ / ".lock";
  lock_fd_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  QUEST_CHECK(lock_fd_ >= 0, ErrorKind::kIo, "cannot write {}: {}", file.string(),
              errno_text(errno));
  // The system drops the lock when the process ends, however it ends.
  if (flock(lock_fd_, LOCK_EX | LOCK_NB) == 0) return;
  const int reason = errno;
  close(lock_fd_);
  QUEST_CHECK(reason == EWOULDBLOCK, ErrorKind::kIo, "cannot lock {}: {}", file.string(),
              errno_text(reason));
  QUEST_THROW(ErrorKind::kIo, "another process is training in {}", path_.string());
}

void RunFolder::link_name(const TrainConfig& config) const {
  const std::string full = path_.filename().string();
  const fs::path link =
      path_.parent_path() / full.substr(0, full.size() - config_hash(config).size() - 1);
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(link, ignored)) && !fs::is_symlink(link, ignored)) {
    log::warn("{} exists and is no link: it stays as it is", link.string());
    return;
  }
  const fs::path init = config.run.init;
  if (!init.empty() && fs::exists(link, ignored) && is_within(init, link)) {
    log::info("{} stays the name of the run that this one takes its weights from", link.string());
    return;
  }
  replace_link(link, full);
}

DataPaths resolve_data(const TrainConfig::Data& data) {
  QUEST_CHECK(!data.train.empty(), ErrorKind::kUsage,
              "data.train is empty: give the folder that `quest data` made (--data)");
  DataPaths paths;
  fs::path folder;
  if (std::error_code ignored; fs::is_directory(data.train, ignored)) {
    folder = data.train;
    paths.train.push_back(folder / kTrainTokensName);
    if (fs::exists(folder / kValidationTokensName)) {
      paths.validation = folder / kValidationTokensName;
    }
  } else {
    size_t begin = 0;
    while (begin <= data.train.size()) {
      const size_t end = std::min(data.train.find(',', begin), data.train.size());
      paths.train.emplace_back(data.train.substr(begin, end - begin));
      begin = end + 1;
    }
    folder = paths.train.front().parent_path();
    if (folder.empty()) folder = ".";
  }
  for (const fs::path& path : paths.train) {
    QUEST_CHECK(fs::exists(path), ErrorKind::kIo,
                "{}: there is no such file or folder of tokens; `quest data` makes one from text",
                path.string());
  }
  if (!data.validation.empty()) paths.validation = data.validation;
  paths.tokenizer = data.tokenizer.empty() ? folder : fs::path(data.tokenizer);
  return paths;
}

}  // namespace quest::train
