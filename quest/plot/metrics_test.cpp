#include "quest/plot/metrics.h"

#include <gtest/gtest.h>

#include "quest/base/testing.h"

namespace quest::plot {
namespace {

constexpr const char* kTraining =
    R"({"step":1,"tokens":2048,"loss":8.25,"lr":1e-5,"grad_norm":2.5,"tokens_per_second":900.0})";
constexpr const char* kEvaluation = R"({"step":1,"tokens":2048,"validation_loss":8.125})";

TEST(Metrics, ReadsTrainingAndEvaluationLines) {
  const std::string text = std::string(kTraining) + "\n" + kEvaluation + "\n" +
                           R"({"step":2,"tokens":4096,"loss":7})" + "\n";
  const RunMetrics run = parse_metrics(text, "metrics.jsonl");
  ASSERT_EQ(run.training.size(), 2u);
  ASSERT_EQ(run.validation.size(), 1u);
  EXPECT_EQ(run.training[1].step, 2);
  EXPECT_EQ(run.training[1].tokens, 4096);
  EXPECT_EQ(run.training[1].loss, 7.0);
  EXPECT_EQ(run.validation[0].loss, 8.125);
  EXPECT_FALSE(run.truncated);
}

TEST(Metrics, PassesOverEventsAndLossesThatAreNotFinite) {
  const RunMetrics run = parse_metrics(
      "{\"event\":\"resumed\",\"step\":3}\n{\"step\":3,\"tokens\":9,\"loss\":null}\n", "m");
  EXPECT_TRUE(run.training.empty());
  EXPECT_TRUE(run.validation.empty());
}

TEST(Metrics, DropsATruncatedLastLineAtEveryCut) {
  const std::string whole = std::string(kEvaluation) + "\n";
  const std::string last = kTraining;
  for (size_t cut = 1; cut < last.size(); ++cut) {
    const RunMetrics run = parse_metrics(whole + last.substr(0, cut), "m");
    EXPECT_TRUE(run.truncated) << cut;
    EXPECT_TRUE(run.training.empty()) << cut;
    EXPECT_EQ(run.validation.size(), 1u) << cut;
  }
  EXPECT_FALSE(parse_metrics(whole + last, "m").truncated);
}

TEST(Metrics, ErrorsNameSourceAndLine) {
  const std::string good = std::string(kTraining) + "\n";
  EXPECT_QUEST_ERROR(parse_metrics(good + "{\"step\":2,\n" + good, "run/metrics.jsonl"),
                     ErrorKind::kData, "run/metrics.jsonl:2");
  EXPECT_QUEST_ERROR(parse_metrics(good + "[1]\n", "m"), ErrorKind::kData, "m:2");
  EXPECT_QUEST_ERROR(parse_metrics("{\"tokens\":1,\"loss\":2}\n", "m"), ErrorKind::kData, "step");
  EXPECT_QUEST_ERROR(parse_metrics("{\"step\":1,\"loss\":2}\n", "m"), ErrorKind::kData, "tokens");
  EXPECT_QUEST_ERROR(parse_metrics("{\"step\":1,\"tokens\":1,\"loss\":\"2\"}\n", "m"),
                     ErrorKind::kData, "loss");
  EXPECT_QUEST_ERROR(parse_metrics("{\"step\":-1,\"tokens\":1,\"loss\":2}\n", "m"),
                     ErrorKind::kData, "-1");
  EXPECT_QUEST_ERROR(parse_metrics(good + "{\"step\":0,\"tokens\":0,\"loss\":2}\n", "m"),
                     ErrorKind::kData, "step 0 comes after step 1");
}

TEST(Metrics, NamesTheRunByItsFolder) {
  const testing::TemporaryFolder folder;
  folder.write("w4a4-12ab/metrics.jsonl", std::string(kTraining) + "\n");
  folder.write("other.jsonl", std::string(kTraining) + "\n");
  EXPECT_EQ(read_run_metrics(folder / "w4a4-12ab").name, "w4a4-12ab");
  EXPECT_EQ(read_run_metrics(folder / "w4a4-12ab/").name, "w4a4-12ab");
  EXPECT_EQ(read_run_metrics(folder / "w4a4-12ab/metrics.jsonl").name, "w4a4-12ab");
  EXPECT_EQ(read_run_metrics(folder / "other.jsonl").name, "other");
}

TEST(Metrics, RefusesMissingAndEmptyRuns) {
  const testing::TemporaryFolder folder;
  EXPECT_QUEST_ERROR(read_run_metrics(folder / "absent"), ErrorKind::kIo, "absent");
  folder.write("empty/metrics.jsonl", "");
  EXPECT_QUEST_ERROR(read_run_metrics(folder / "empty"), ErrorKind::kData, "no loss");
}

}  // namespace
}  // namespace quest::plot
