#include "quest/train/train_state.h"

#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/testing.h"
#include "quest/train/testing_train_state.h"

namespace quest::train {
namespace {

TEST(TrainState, ComesBackFromItsJson) {
  const nlohmann::json json = to_json(testing::state_at(3));
  EXPECT_EQ(to_json(train_state_from_json(json, "state.json")), json);
}

TEST(TrainState, ImpossibleStatesAreRefused) {
  const auto broken = [](const char* key, nlohmann::json value) {
    nlohmann::json json = to_json(testing::state_at(3));
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
