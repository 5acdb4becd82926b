#include "quest/cli/plan_costs.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/cli/quantities.h"
#include "quest/packed/random_model.h"
#include "quest/train/train_config.h"

namespace quest::cli {
namespace {

using quest::testing::TemporaryFolder;

TEST(Quantities, AreReadAndShown) {
  EXPECT_EQ(parse_count("1.6B", "--x"), 1.6e9);
  EXPECT_EQ(parse_count("3e9", "--x"), 3e9);
  EXPECT_EQ(parse_bytes("500MB", "--x"), 5e8);
  EXPECT_EQ(parse_bytes("2GiB", "--x"), 2147483648.0);
  EXPECT_EQ(parse_bytes("7", "--x"), 7);
  for (const char* wrong : {"", "x", "-1B", "0", "1X", "1 B", "1e999", "nan", "5MB"}) {
    EXPECT_QUEST_ERROR(parse_count(wrong, "--x"), ErrorKind::kUsage, "--x is '");
  }
  EXPECT_QUEST_ERROR(parse_bytes("5M", "--x"), ErrorKind::kUsage, "500MB");
  EXPECT_EQ(count_text(1.6e9), "1.60B");
  EXPECT_EQ(count_text(30482560), "30.5M");
  EXPECT_EQ(count_text(812), "812");
  EXPECT_EQ(bytes_text(999.99e6), "1.00 GB");
  EXPECT_EQ(bytes_text(12), "12 B");
}

// At a preset's size the memory is that of the packed file itself, but for its header.
TEST(DeployedCosts, AreThePackedFilesBytes) {
  const TemporaryFolder folder;
  train::TrainConfig config;
  config.model.preset = "30M";
  const LlamaConfig shape = train::resolve_model(config, 1000);
  const double n = static_cast<double>(shape.non_embedding_parameters());
  for (const char* format : {"w1a1", "int4_4of8"}) {
    DeploymentSettings settings;
    settings.vocabulary = 1000;
    settings.tables = {TableFormat::kBf16, TableFormat::kInt4};
    write_random_packed_model(folder / format, shape, recipe_from_name(format),
                              {.formats = settings.tables});
    const auto file = std::filesystem::file_size(folder / format / "model.safetensors");
    const DeployedCosts costs = deployed_costs(format, settings, {});
    const double missing = static_cast<double>(file) - costs.costs.memory_bytes(n);
    EXPECT_GT(missing, 0) << format;  // the header
    EXPECT_LT(missing, 20000) << format;
    EXPECT_FALSE(costs.costs.decode_seconds);
    EXPECT_FALSE(costs.measured_sizes);
  }
}

TEST(DeployedCosts, GoOnBetweenAndBeyondThePresets) {
  const DeploymentSettings settings;
  const DeployedCosts w4 = deployed_costs("w4a4", settings, {});
  const DeployedCosts bf16 = deployed_costs("bf16", settings, {});
  EXPECT_EQ(w4.weight_bits, 4);
  EXPECT_EQ(deployed_costs("int4_4of8", settings, {}).weight_bits, 2.5);
  double last = 0;
  for (double n = 1e6; n < 1e11; n *= 1.3) {
    const double bytes = w4.costs.memory_bytes(n);
    EXPECT_GT(bytes, std::max(last, n / 2));  // codes, and more
    EXPECT_LT(bytes, bf16.costs.memory_bytes(n));
    last = bytes;
  }
  // Far beyond, tables no longer count: half a byte and the units of rows.
  EXPECT_NEAR(w4.costs.memory_bytes(1e11) / 1e11, 0.5, 0.02);
  DeploymentSettings tied = settings;
  tied.tied = true;
  EXPECT_LT(deployed_costs("w4a4", tied, {}).costs.memory_bytes(1e8), w4.costs.memory_bytes(1e8));
}

TEST(DeployedCosts, AreNotKnownForWhatHasNoPackedForm) {
  const DeployedCosts unknown = deployed_costs("mine", {}, {});
  EXPECT_FALSE(unknown.costs.memory_bytes);
  EXPECT_FALSE(unknown.weight_bits);
  EXPECT_EQ(unknown.costs.format, "mine");
  DeploymentSettings tied;
  tied.tied = true;
  tied.tables = {TableFormat::kInt8, TableFormat::kBf16};
  EXPECT_QUEST_ERROR(deployed_costs("w4a4", tied, {}), ErrorKind::kUsage, "tied");
}

std::string speed_json(const char* recipe, double size, double decode, double prefill,
                       const char* more = "") {
  return fmt::format(R"({{"recipe": "{}", "bytes_per_step": {}, "operations_per_token": {},
                          "decode_tokens_per_second": {}, "prefill_tokens_per_second": {},
                          "threads": 2, "depth": 512{}}})",
                     recipe, size / 2, 2 * size, decode, prefill, more);
}

TEST(ReadSpeeds, GiveSecondsByTheRateReached) {
  const TemporaryFolder folder;
  const std::string small = folder.write("s.json", speed_json("w4a4", 1e8, 100, 1000)).string();
  const std::string large = folder.write("l.json", speed_json("w4a4", 1e9, 20, 200)).string();
  const std::vector<MeasuredSpeed> speeds = read_speeds({large, small});
  ASSERT_EQ(speeds.size(), 2u);
  EXPECT_EQ(speeds[0].source, small);
  const DeployedCosts costs = deployed_costs("w4a4", {}, speeds);
  EXPECT_NEAR(costs.measured_sizes->low, 1e8, 1);
  EXPECT_NEAR(costs.measured_sizes->high, 1e9, 1);
  EXPECT_NEAR(costs.costs.prefill_seconds(1e8), 1e-3, 1e-9);
  EXPECT_NEAR(costs.costs.prefill_seconds(1e9), 5e-3, 1e-9);
  EXPECT_NEAR(costs.costs.prefill_seconds(1e10), 5e-2, 1e-8);  // at the largest one's rate
  // Bytes a step at N 1e9 are about those of the large one: 0.5 GB of blocks and the head.
  EXPECT_NEAR(costs.costs.decode_seconds(1e9), 1 / 20., 0.01);
  EXPECT_FALSE(deployed_costs("w1a1", {}, speeds).costs.decode_seconds);

  // A step of a batch writes a token of every sequence.
  const auto batch = read_speeds(
      {folder.write("b.json", speed_json("w4a4", 1e8, 100, 1000, ", \"batch\": 8")).string()});
  EXPECT_NEAR(batch[0].step_seconds, 0.08, 1e-12);
  const auto list = read_speeds({folder
                                     .write("list.json", "[" + speed_json("w4a4", 1e8, 9, 9) + "," +
                                                             speed_json("w1a1", 1e8, 9, 9) + "]")
                                     .string()});
  EXPECT_EQ(list.size(), 2u);
}

TEST(ReadSpeeds, AreDistrusted) {
  const TemporaryFolder folder;
  int files = 0;
  const auto file = [&](const std::string& text) {
    return folder.write(fmt::format("{}.json", files++), text).string();
  };
  const std::string good = file(speed_json("w4a4", 1e8, 100, 1000));
  EXPECT_QUEST_ERROR(read_speeds({file("{}")}), ErrorKind::kData, "recipe");
  EXPECT_QUEST_ERROR(read_speeds({file("[3]")}), ErrorKind::kData, "[0]");
  EXPECT_QUEST_ERROR(read_speeds({file(speed_json("w4a4", 1e8, 0, 1))}), ErrorKind::kData,
                     "decode_tokens_per_second is 0");
  EXPECT_QUEST_ERROR(read_speeds({good, good}), ErrorKind::kData, "of one size");
  EXPECT_QUEST_ERROR(read_speeds({good, file(speed_json("w4a4", 2e8, 300, 1000))}),
                     ErrorKind::kData, "took less time");
  EXPECT_QUEST_ERROR(
      read_speeds({good, file(speed_json("w1a1", 1e8, 1, 1, ", \"level\": \"avx2\""))}),
      ErrorKind::kUsage, "level \"avx2\"");
  EXPECT_QUEST_ERROR(read_speeds({(folder / "none.json").string()}), ErrorKind::kIo, "none.json");
}

}  // namespace
}  // namespace quest::cli
