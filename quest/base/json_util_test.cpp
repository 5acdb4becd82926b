#include "quest/base/json_util.h"

#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

using testing::TemporaryFolder;

TEST(JsonUtil, ParsesStrictly) {
  EXPECT_EQ(parse_json(R"({"a": [1, {"b": null}]})", "x")["a"][0], 1);
  // The same key in different objects is no duplicate.
  EXPECT_NO_THROW(parse_json(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]})", "x"));
  EXPECT_QUEST_ERROR(parse_json(R"({"a": 1, "b": {}, "a": 2})", "file.json"), ErrorKind::kData,
                     "file.json: JSON has the key \"a\" twice");
  for (const std::string_view text : {"", "{", "{} {}", "{'a': 1}", "[1,]", "// c\n1", "nan",
                                      "\"\xff\"", "{\"a\": 1e999}", "01"}) {
    EXPECT_QUEST_ERROR(parse_json(text, "file.json"), ErrorKind::kData,
                       "file.json: not valid JSON");
  }
  EXPECT_QUEST_ERROR(parse_json(std::string_view("1\0", 2), "x"), ErrorKind::kData, "NUL");
}

TEST(JsonUtil, LimitsDepth) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']');
  };
  EXPECT_NO_THROW(parse_json(nested(kMaxJsonDepth), "x"));
  EXPECT_QUEST_ERROR(parse_json(nested(kMaxJsonDepth + 1), "x"), ErrorKind::kData, "64 deep");
  EXPECT_QUEST_ERROR(parse_json(std::string(1000000, '['), "x"), ErrorKind::kData, "deep");
}

TEST(JsonUtil, TypedMembers) {
  const Json o = parse_json(
      R"({"i": -3, "u": 18446744073709551615, "d": 0.5, "w": 2, "b": true, "s": "t", "n": null,
          "l": [1, 2], "f": [1, 2.5], "t": ["x"], "big": 3000000000})",
      "x");
  EXPECT_EQ(json_get<int64_t>(o, "i", "x"), -3);
  EXPECT_EQ(json_get<uint64_t>(o, "u", "x"), UINT64_MAX);
  EXPECT_EQ(json_get<double>(o, "d", "x"), 0.5);
  EXPECT_EQ(json_get<double>(o, "w", "x"), 2.0);
  EXPECT_EQ(json_get<bool>(o, "b", "x"), true);
  EXPECT_EQ(json_get<std::string>(o, "s", "x"), "t");
  EXPECT_EQ(json_get<std::vector<int64_t>>(o, "l", "x"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(json_get<std::vector<double>>(o, "f", "x"), (std::vector<double>{1, 2.5}));
  EXPECT_EQ(json_get<std::vector<std::string>>(o, "t", "x"), (std::vector<std::string>{"x"}));
  EXPECT_EQ(json_get<int64_t>(o, "big", "x"), 3000000000);

  EXPECT_QUEST_ERROR(json_get<int>(o, "big", "x"), ErrorKind::kData, "\"big\" is 3000000000");
  EXPECT_QUEST_ERROR(json_get<int64_t>(o, "u", "x"), ErrorKind::kData, "range");
  EXPECT_QUEST_ERROR(json_get<uint64_t>(o, "i", "x"), ErrorKind::kData, "-3");
  EXPECT_QUEST_ERROR(json_get<int64_t>(o, "d", "x"), ErrorKind::kData, "whole number");
  EXPECT_QUEST_ERROR(json_get<int64_t>(o, "b", "x"), ErrorKind::kData, "true");
  EXPECT_QUEST_ERROR(json_get<bool>(o, "w", "x"), ErrorKind::kData, "true or false");
  EXPECT_QUEST_ERROR(json_get<std::string>(o, "i", "x"), ErrorKind::kData, "a string");
  EXPECT_QUEST_ERROR(json_get<std::vector<int64_t>>(o, "f", "x"), ErrorKind::kData, "a list");
  EXPECT_QUEST_ERROR(json_get<int64_t>(o, "zz", "c.json"), ErrorKind::kData,
                     "c.json: \"zz\" is missing");
  EXPECT_QUEST_ERROR(json_get<int64_t>(Json::array(), "zz", "c.json"), ErrorKind::kData, "object");
}

TEST(JsonUtil, FallbackIsForAbsentAndNullOnly) {
  const Json o = parse_json(R"({"n": null, "s": "t"})", "x");
  EXPECT_EQ(json_get_or<int64_t>(o, "n", 7, "x"), 7);
  EXPECT_EQ(json_get_or<int64_t>(o, "absent", 8, "x"), 8);
  EXPECT_EQ(json_get_or<std::string>(o, "s", "u", "x"), "t");
  EXPECT_QUEST_ERROR(json_get_or<int64_t>(o, "s", 7, "x"), ErrorKind::kData, "\"t\"");
}

TEST(JsonUtil, ReadsFiles) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_json(folder.write("a.json", "[1]"))[0], 1);
  EXPECT_QUEST_ERROR(read_json(folder.write("b.json", "[")), ErrorKind::kData, "b.json");
  EXPECT_QUEST_ERROR(read_json(folder / "absent"), ErrorKind::kIo, "absent");
}

}  // namespace
}  // namespace quest
