#include "quest/train/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <map>
#include <optional>
#include <unistd.h>

#include <ATen/core/grad_mode.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/log.h"
#include "quest/model/checkpoint_files.h"
#include "quest/train/weights.h"

namespace quest::train {

namespace fs = std::filesystem;
namespace {

constexpr std::string_view kStepPrefix = "step-";

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:08}", kStepPrefix, step); }

// The step of a checkpoint folder's name; nullopt for any other name.
std::optional<int64_t> step_of_folder(const std::string& name) {
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* const end = name.data() + name.size();
  const auto result = std::from_chars(name.data() + kStepPrefix.size(), end, step);
  if (result.ec != std::errc() || result.ptr != end || name != checkpoint_name(step)) {
    return std::nullopt;
  }
  return step;
}

// Step and path of all checkpoint folders, newest first.
std::vector<std::pair<int64_t, fs::path>> list_checkpoints(const fs::path& run) {
  std::vector<std::pair<int64_t, fs::path>> out;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", error)) {
    const auto step = step_of_folder(entry.path().filename().string());
    if (step && !entry.is_symlink() && entry.is_directory()) out.emplace_back(*step, entry.path());
  }
  std::sort(out.rbegin(), out.rend());
  return out;
}

DType master_dtype(const nn::LlamaModel& model) {
  return model.compute_type() == nn::ComputeType::kFloat64 ? DType::kF64 : DType::kF32;
}

void write_model_files(const fs::path& folder, const CheckpointParts& parts, DType dtype) {
  const char* torch_dtype = dtype == DType::kBF16  ? "bfloat16"
                            : dtype == DType::kF64 ? "float64"
                                                   : "float32";
  write_file_atomically(folder / "config.json",
                        llama_config_json(parts.model.config(), parts.model.recipe(), torch_dtype));
  save_weights(parts.model, folder / "model.safetensors", dtype);
  parts.tokenizer.save(folder);
  write_file_atomically(folder / "config.toml", parts.config_toml);
}

// Everything of optimizer.safetensors, as live tensors.
std::vector<StateTensor> training_tensors(const CheckpointParts& parts) {
  std::vector<StateTensor> out = parts.optimizer.state();
  for (StateTensor& t : parts.averages.state()) out.push_back(std::move(t));
  return out;
}

// The model's weights, and what training needs if it goes on from another point than the one that
// model.safetensors holds.
void write_training_files(const fs::path& folder, const CheckpointParts& parts, DType dtype) {
  std::vector<StateTensor> tensors = training_tensors(parts);
  const std::vector<StateTensor> training_point = parts.optimizer.training_point();
  tensors.insert(tensors.end(), training_point.begin(), training_point.end());
  SafetensorsWriter writer(folder / "optimizer.safetensors");
  writer.set_metadata("optimizer", parts.optimizer.name());
  writer.set_metadata("steps", fmt::format("{}", parts.optimizer.steps()));
  writer.set_metadata("scalars", Json(parts.optimizer.scalars()).dump());
  writer.set_metadata("averages", Json(parts.averages.counts()).dump());
  for (StateTensor& t : tensors) {  // copies from a GPU live until finish()
    t.tensor = t.tensor.cpu();
    add_tensor(writer, t.name, t.tensor);
  }
  writer.finish();
  write_model_files(folder, parts, dtype);
}

template <class T>
std::vector<T> metadata_list(const SafetensorsReader& file, const std::string& key) {
  const std::string where = file.path().string();
  const auto found = file.metadata().find(key);
  QUEST_CHECK(found != file.metadata().end(), ErrorKind::kData, "{}: no metadata '{}'", where, key);
  const Json wrapped = {{key, parse_json(found->second, where)}};
  return json_get<std::vector<T>>(wrapped, key, where);
}

std::string metadata_text(const SafetensorsReader& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? std::string() : found->second;
}

// What a child run takes over of its parent: what quantizers of another recipe have learned, and
// its history, is not for its own.
bool takes_over(const std::string& name, bool takes_learned) {
  return takes_learned || !is_quantizer_tensor(name);
}

void restore_training_point(const SafetensorsReader& file, const CheckpointParts& parts,
                            bool takes_learned) {
  for (const nn::NamedParameter& p : parts.model.parameters()) {
    if (!takes_over(p.name, takes_learned)) continue;
    copy_tensor(file.tensor(p.name + ".training_point"), p.tensor, file.path().string());
  }
}

// A child run may have averages that its parent lacks, and the other way round.
void restore_averages(const SafetensorsReader& file, const CheckpointParts& parts, bool strict,
                      bool takes_learned) {
  const std::vector<StateTensor> averages = parts.averages.state();
  const bool all = std::all_of(averages.begin(), averages.end(), [&](const StateTensor& t) {
    return takes_over(t.name, takes_learned) && file.contains(t.name);
  });
  if (!strict && !all) {
    log::info("{} has other averages of weights: they begin anew", file.path().string());
    return;
  }
  for (const StateTensor& t : averages) {
    copy_tensor(file.tensor(t.name), t.tensor, file.path().string());
  }
  parts.averages.set_counts(metadata_list<int64_t>(file, "averages"));
}

}  // namespace

fs::path save_checkpoint(const fs::path& run, const CheckpointParts& parts,
                         const TrainState& state) {
  const fs::path destination = run / "checkpoints" / checkpoint_name(state.step);
  AtomicFolder folder(destination);
  parts.optimizer.to_evaluation_point();
  try {
    write_training_files(folder.path(), parts, master_dtype(parts.model));
  } catch (...) {
    parts.optimizer.to_training_point();
    throw;
  }
  parts.optimizer.to_training_point();
  if (parts.diagnostics != nullptr) parts.diagnostics->save(folder.path());
  write_file_atomically(folder.path() / "state.json", to_json(state).dump(1) + "\n");
  folder.publish();
  replace_link(run / "checkpoints" / "latest", destination.filename().string());
  return destination;
}

TrainState read_train_state(const fs::path& checkpoint) {
  const fs::path path = checkpoint / "state.json";
  return train_state_from_json(read_json(path), path.string());
}

TrainState load_checkpoint(const fs::path& checkpoint, const CheckpointParts& parts, bool strict) {
  verify_folder(checkpoint);
  TrainState state = read_train_state(checkpoint);
  load_weights(parts.model, checkpoint);
  const SafetensorsReader file(checkpoint / "optimizer.safetensors");
  const std::string where = file.path().string();
  const std::string rule = metadata_text(file, "optimizer");
  const bool takes_learned = strict || shares_learned(parts.model, checkpoint);
  // Other rules, too, go on from the point that was trained.
  if (rule == parts.optimizer.name() || !strict) {
    const bool has_point = file.contains(parts.model.parameters().front().name + ".training_point");
    if (has_point) restore_training_point(file, parts, takes_learned);
  }
  if (rule == parts.optimizer.name()) {
    for (const StateTensor& t : parts.optimizer.state()) {
      if (!takes_over(t.name, takes_learned)) continue;
      copy_tensor(file.tensor(t.name), t.tensor, where);
    }
    int64_t steps = -1;
    const std::string text = metadata_text(file, "steps");
    std::from_chars(text.data(), text.data() + text.size(), steps);
    QUEST_CHECK(steps >= 0, ErrorKind::kData, "{}: metadata 'steps' is '{}'", where, text);
    parts.optimizer.set_steps(steps);
    parts.optimizer.set_scalars(metadata_list<double>(file, "scalars"));
  } else {
    QUEST_CHECK(!strict, ErrorKind::kData, "{} is of optimizer '{}', this run's is {}", where, rule,
                parts.optimizer.name());
    log::warn("{} is of optimizer '{}': {} starts without history", where, rule,
              parts.optimizer.name());
  }
  restore_averages(file, parts, strict, takes_learned);
  if (strict && parts.diagnostics != nullptr) parts.diagnostics->load(checkpoint);
  return state;
}

CheckpointScan find_checkpoints(const fs::path& run, bool all) {
  CheckpointScan scan;
  for (const auto& [step, path] : list_checkpoints(run)) {
    try {
      verify_folder(path);
      const TrainState state = read_train_state(path);
      QUEST_CHECK(state.step == step, ErrorKind::kData, "{}: state.json is of step {}",
                  path.string(), state.step);
      scan.valid.push_back(path);
      if (!all) break;
    } catch (const Error& error) {
      scan.broken.push_back(path.filename().string() + ": " + error.what());
    }
  }
  return scan;
}

void prune_checkpoints(const fs::path& run, int64_t keep_last, bool keep_best) {
  const auto all = list_checkpoints(run);
  std::optional<double> best_loss;
  fs::path best;
  for (const auto& [step, path] : all) {
    try {
      const TrainState state = read_train_state(path);
      // Of equal ones the newest.
      if (state.validation_loss && (!best_loss || *state.validation_loss < *best_loss)) {
        best_loss = state.validation_loss;
        best = path;
      }
    } catch (const Error& error) {
      log::warn("{}: {}", path.string(), error.what());
    }
  }
  if (keep_best && best_loss) {
    replace_link(run / "checkpoints" / "best", best.filename().string());
  }
  for (size_t k = static_cast<size_t>(keep_last); k < all.size(); ++k) {
    if (keep_best && all[k].second == best) continue;
    // Renamed first: a kill in the middle must not leave half a checkpoint under its name.
    const fs::path dying = fmt::format("{}.tmp-{}-0", all[k].second.string(), getpid());
    std::error_code error;
    fs::rename(all[k].second, dying, error);
    if (!error) fs::remove_all(dying, error);
    if (error) log::warn("cannot remove {}: {}", all[k].second.string(), error.message());
  }
}

void save_final(const fs::path& destination, const CheckpointParts& parts, DType dtype) {
  AtomicFolder folder(destination);
  write_model_files(folder.path(), parts, dtype);
  folder.publish();
}

void replace_link(const fs::path& link, const std::string& target) {
  const fs::path temporary = fmt::format("{}.tmp-{}", link.string(), getpid());
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_directory_symlink(target, temporary, error);
  if (!error) fs::rename(temporary, link, error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot link {} to {}: {}", link.string(), target,
              error.message());
}

}  // namespace quest::train
