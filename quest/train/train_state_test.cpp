#include "quest/train/train_state.h"

#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

TrainState a_state() {
  TrainState s;
  s.step = 3;
  s.tokens = 300;
  s.loader = {7, 48};
  s.data_fingerprint = "f";
  s.config_hash = "12345678";
  s.parent = "p";
  s.metrics = {123, "events", 45};
  s.train_seconds = 0.1;
  s.validation_loss = 1.0 / 3;
  s.guards = {{"window", {0.1, 2.5}}};
  return s;
}

TEST(TrainState, ComesBackFromItsJson) {
  const nlohmann::json json = to_json(a_state());
  EXPECT_EQ(to_json(train_state_from_json(json, "state.json")), json);
}

TEST(TrainState, ImpossibleStatesAreRefused) {
  const auto broken = [](const char* key, nlohmann::json value) {
    nlohmann::json json = to_json(a_state());
    json[key] = std::move(value);
    return json;
  };
  for (const auto& json :
       {broken("format_version", 99), broken("step", -1), broken("step", "x"),
        broken("loader", nullptr), broken("metrics", {{"bytes", -1}}),
        broken("metrics", {{"bytes", 1}, {"event_file", "../x"}, {"event_bytes", 1}}),
        broken("guards", 3)}) {
    EXPECT_QUEST_ERROR(train_state_from_json(json, "state.json"), ErrorKind::kData, "state.json");
  }
}

}  // namespace
}  // namespace quest::train
