#include "quest/plot/diagnostics.h"

#include <gtest/gtest.h>

#include "quest/base/testing.h"

namespace quest::plot {
namespace {

constexpr const char* kLine =
    R"({"step":500,"tokens":2048,"diagnostics":{"layers":[)"
    R"({"name":"a","weight":{"masked":0.01,"masked_gaussian":0.02,"kurtosis":3},"input":{"masked":0.5}},)"
    R"({"name":"b","weight":{"masked":0.03},"input":{"kurtosis":3.1}},)"
    R"({"name":"c","weight":{"masked":null}}],)"
    R"("gradient_cosine":[{"block":1,"part":"mlp","mean":0.9,"std":0.1},)"
    R"({"block":0,"part":"attn","mean":0.7,"std":0.2},{"block":1,"part":"attn","mean":null}],)"
    R"("masks_retained":[{"since_step":0,"retained":0.25},{"since_step":100,"retained":null}]}})"
    "\n";

TEST(Diagnostics, ReadsMeansCosinesAndMasks) {
  const std::string training = R"({"step":1,"tokens":4,"loss":3})"
                               "\n";
  const std::vector<DiagnosticsLine> lines =
      parse_diagnostics(training + kLine + training + "{\"step\":3", "m");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].step, 500);
  EXPECT_DOUBLE_EQ(lines[0].weight.masked.value(), 0.02) << "of the layers that have it";
  EXPECT_DOUBLE_EQ(lines[0].weight.gaussian.value(), 0.02);
  EXPECT_DOUBLE_EQ(lines[0].input.masked.value(), 0.5);
  EXPECT_FALSE(lines[0].input.gaussian);
  ASSERT_EQ(lines[0].cosine.size(), 2u) << "one without a finite mean is left out";
  EXPECT_EQ(lines[0].cosine[0].depth, 0);
  EXPECT_EQ(lines[0].cosine[0].std, 0.2);
  EXPECT_EQ(lines[0].cosine[1].depth, 1.5);
  EXPECT_EQ(lines[0].cosine[1].mean, 0.9);
  ASSERT_EQ(lines[0].retained.size(), 1u);
  EXPECT_EQ(lines[0].retained[0].since_step, 0);
  EXPECT_EQ(lines[0].retained[0].retained, 0.25);
}

TEST(Diagnostics, KeysMayBeAbsent) {
  const auto lines = parse_diagnostics("{\"step\":1,\"diagnostics\":{}}\n", "m");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_FALSE(lines[0].weight.masked);
  EXPECT_TRUE(lines[0].cosine.empty());
}

TEST(Diagnostics, ErrorsNameTheLine) {
  const auto parse = [](const std::string& values) {
    return parse_diagnostics("{\"step\":1,\"diagnostics\":" + values + "}\n", "m");
  };
  EXPECT_QUEST_ERROR(parse("3"), ErrorKind::kData, "m:1: diagnostics");
  EXPECT_QUEST_ERROR(parse(R"({"layers":{}})"), ErrorKind::kData, "m:1: layers");
  EXPECT_QUEST_ERROR(parse(R"({"layers":[3]})"), ErrorKind::kData, "m:1");
  EXPECT_QUEST_ERROR(parse(R"({"layers":[{"weight":{"masked":"x"}}]})"), ErrorKind::kData,
                     "masked");
  EXPECT_QUEST_ERROR(parse(R"({"gradient_cosine":[{"block":0,"part":"head","mean":1}]})"),
                     ErrorKind::kData, "'head'");
  EXPECT_QUEST_ERROR(parse(R"({"gradient_cosine":[7]})"), ErrorKind::kData, "m:1");
  EXPECT_QUEST_ERROR(parse(R"({"masks_retained":[{"retained":1}]})"), ErrorKind::kData,
                     "since_step");
}

TEST(Diagnostics, ARunWithoutAnySaysHowToGetThem) {
  const testing::TemporaryFolder folder;
  folder.write("run/metrics.jsonl", "{\"step\":1,\"tokens\":1,\"loss\":3}\n");
  EXPECT_QUEST_ERROR(read_run_diagnostics(folder / "run"), ErrorKind::kData, "--diagnostics.every");
  EXPECT_QUEST_ERROR(read_run_diagnostics(folder / "absent"), ErrorKind::kIo, "absent");
  folder.write("run/metrics.jsonl", kLine);
  EXPECT_EQ(read_run_diagnostics(folder / "run").name, "run");
}

}  // namespace
}  // namespace quest::plot
