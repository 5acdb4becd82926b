// The folder of one run: <run.folder>/<name>-<hash of the configuration>.
//
//   RunFolder folder(config, rank == 0);  // made or found, locked until destruction
//   ...                                   // what may still fail: a new folder is removed again
//   folder.keep();
//   folder.path() / "metrics.jsonl"
//
// One configuration, one folder: what is found there was made by the same settings, so going on
// from its checkpoints is right, and another run's state is never taken. Throws kIo (unwritable
// folder, another process trains in it) and kData (its config.toml is of another configuration).
#pragma once

#include <filesystem>

#include "quest/train/train_config.h"

namespace quest::train {

class RunFolder {
 public:
  // Only the writer (rank 0) makes and locks it; for others path() is all there is.
  RunFolder(const TrainConfig& config, bool writer);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // The run sets out: from now on its folder stays. Without it a folder that was not there before
  // goes with this object.
  void keep() { kept_ = true; }
  // <run.folder>/<name> becomes a link to this run, for people and scripts that do not know the
  // hash. A run that begins from another's weights leaves that one its name.
  void link_name(const TrainConfig& config) const;

 private:
  void lock();
  void remove_if_nothing_came_of_it() const;

  std::filesystem::path path_;
  bool made_ = false;  // it was not there before
  bool kept_ = false;
  int lock_fd_ = -1;
};

// Token files and tokenizer that [data] names, with a folder's parts filled in.
struct DataPaths {
  std::vector<std::filesystem::path> train;
  std::filesystem::path validation;  // empty: none
  std::filesystem::path tokenizer;
};
// Throws kUsage if data.train is empty, kIo if a file of it does not exist.
DataPaths resolve_data(const TrainConfig::Data& data);

}  // namespace quest::train
