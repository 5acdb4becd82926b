#include "quest/train/train_state.h"

#include <filesystem>

#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/version.h"

namespace quest::train {
namespace {

constexpr int kStateVersion = 1;

}  // namespace

nlohmann::json to_json(const TrainState& s) {
  nlohmann::json out = {
      {"format_version", kStateVersion},
      {"program", version_text()},
      {"step", s.step},
      {"tokens", s.tokens},
      {"first_tokens", s.first_tokens},
      {"loader", {{"seed", s.loader.seed}, {"position", s.loader.position}}},
      {"data_fingerprint", s.data_fingerprint},
      {"config_hash", s.config_hash},
      {"parent", s.parent},
      {"metrics",
       {{"bytes", s.metrics.metrics_bytes},
        {"event_file", s.metrics.event_file},
        {"event_bytes", s.metrics.event_bytes}}},
      {"train_seconds", s.train_seconds},
      {"wall_seconds", s.wall_seconds},
      {"evaluation", s.evaluation},
      {"guards", s.guards},
  };
  if (s.validation_loss) out["validation_loss"] = *s.validation_loss;
  return out;
}

TrainState train_state_from_json(const nlohmann::json& json, const std::string& where) {
  const auto version = json_get<int64_t>(json, "format_version", where);
  QUEST_CHECK(version == kStateVersion, ErrorKind::kData,
              "{}: format_version is {}, this program reads {}", where, version, kStateVersion);
  const auto object = [&](const char* key) -> const nlohmann::json& {
    QUEST_CHECK(json.contains(key) && json[key].is_object(), ErrorKind::kData,
                "{}: '{}' is missing or no object", where, key);
    return json[key];
  };
  TrainState s;
  s.step = json_get<int64_t>(json, "step", where);
  s.tokens = json_get<int64_t>(json, "tokens", where);
  s.first_tokens = json_get<int64_t>(json, "first_tokens", where);
  QUEST_CHECK(s.step >= 0 && s.tokens >= 0, ErrorKind::kData, "{}: step {} and tokens {}", where,
              s.step, s.tokens);
  s.loader.seed = json_get<uint64_t>(object("loader"), "seed", where);
  s.loader.position = json_get<int64_t>(object("loader"), "position", where);
  s.data_fingerprint = json_get<std::string>(json, "data_fingerprint", where);
  s.config_hash = json_get<std::string>(json, "config_hash", where);
  s.parent = json_get<std::string>(json, "parent", where);
  const nlohmann::json& metrics = object("metrics");
  s.metrics.metrics_bytes = json_get<int64_t>(metrics, "bytes", where);
  s.metrics.event_file = json_get<std::string>(metrics, "event_file", where);
  s.metrics.event_bytes = json_get<int64_t>(metrics, "event_bytes", where);
  QUEST_CHECK(s.metrics.metrics_bytes >= 0 && s.metrics.event_bytes >= 0 &&
                  std::filesystem::path(s.metrics.event_file).filename() == s.metrics.event_file,
              ErrorKind::kData, "{}: impossible 'metrics'", where);
  s.train_seconds = json_get<double>(json, "train_seconds", where);
  s.wall_seconds = json_get<double>(json, "wall_seconds", where);
  s.evaluation = object("evaluation");
  if (json.contains("validation_loss")) {
    s.validation_loss = json_get<double>(json, "validation_loss", where);
  }
  s.guards = object("guards");
  return s;
}

}  // namespace quest::train
