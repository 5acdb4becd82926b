#include "quest/train/metrics.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

namespace fs = std::filesystem;

uint64_t little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t k = bytes.size(); k-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[k]);
  return value;
}

// Bit by bit, by the polynomial itself; unmasked.
uint32_t slow_crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int k = 0; k < 8; ++k) crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
  }
  return ~crc;
}
uint32_t unmask(uint32_t masked) {
  const uint32_t rotated = masked - 0xa282ead8u;
  return rotated >> 17 | rotated << 15;
}

// The messages of a TFRecord file; fails the test where framing or a checksum is wrong.
std::vector<std::string> read_records(std::string_view file) {
  std::vector<std::string> out;
  while (!file.empty()) {
    if (file.size() < 16) {
      ADD_FAILURE() << "a cut record";
      return out;
    }
    const uint64_t length = little_endian(file.substr(0, 8));
    EXPECT_EQ(unmask(static_cast<uint32_t>(little_endian(file.substr(8, 4)))),
              slow_crc32c(file.substr(0, 8)));
    if (file.size() < 16 + length) {
      ADD_FAILURE() << "a cut message";
      return out;
    }
    out.emplace_back(file.substr(12, length));
    EXPECT_EQ(unmask(static_cast<uint32_t>(little_endian(file.substr(12 + length, 4)))),
              slow_crc32c(out.back()));
    file.remove_prefix(16 + length);
  }
  return out;
}

TEST(TensorBoard, Crc32cOfTheStandardsExamples) {
  EXPECT_EQ(slow_crc32c("123456789"), 0xE3069283u);  // the check value of CRC-32C
  EXPECT_EQ(unmask(masked_crc32c("123456789")), 0xE3069283u);
  EXPECT_EQ(unmask(masked_crc32c(std::string(32, '\0'))), 0x8A9136AAu);  // RFC 3720, B.4
}

// Wire format by hand, so that a wrong field number in the .proto is found.
TEST(TensorBoard, EventsAreWhatTheFormatSays) {
  const auto header = read_records(tensorboard_header(1.5));
  ASSERT_EQ(header.size(), 1u);
  const double time = 1.5;
  std::string expected = "\x09" + std::string(reinterpret_cast<const char*>(&time), 8);
  expected +=
      "\x1a\x0d"
      "brain.Event:2";  // field 3
  EXPECT_EQ(header[0], expected);

  const auto event =
      read_records(tensorboard_event({{"step", 300}, {"loss", 0.5}, {"skipped", true}}, 1.5));
  ASSERT_EQ(event.size(), 1u);
  const float loss = 0.5f;
  std::string value = "\x0a\x0atrain/loss\x15";  // tag: field 1, simple_value: field 2
  value += std::string(reinterpret_cast<const char*>(&loss), 4);
  std::string summary = "\x0a" + std::string(1, static_cast<char>(value.size())) + value;
  expected = "\x09" + std::string(reinterpret_cast<const char*>(&time), 8);
  expected += "\x10\xac\x02";  // step 300: field 2
  expected += "\x2a" + std::string(1, static_cast<char>(summary.size())) + summary;  // field 5
  EXPECT_EQ(event[0], expected);

  const auto validation = tensorboard_event({{"step", 1}, {"validation_loss", 2.0}}, 0);
  EXPECT_NE(validation.find("validation/validation_loss"), std::string::npos);
}

TEST(TensorBoard, HistogramsAreWhatTheFormatSays) {
  Histogram h;
  h.tag = "h";
  h.min = 1;
  h.max = 2;
  h.count = 3;
  h.sum = 4;
  h.sum_squares = 5;
  h.limits = {6};
  h.counts = {7};
  const auto event = read_records(tensorboard_event({{"step", 1}}, 0, {h}));
  ASSERT_EQ(event.size(), 1u);
  const auto number = [](double x) { return std::string(reinterpret_cast<const char*>(&x), 8); };
  std::string histogram = "\x09" + number(1) + "\x11" + number(2) + "\x19" + number(3) + "\x21" +
                          number(4) + "\x29" + number(5) + "\x32\x08" + number(6) + "\x3a\x08" +
                          number(7);
  const auto size = [](const std::string& text) {
    return std::string(1, static_cast<char>(text.size()));
  };
  const std::string value = "\x0a\x01h\x2a" + size(histogram) + histogram;  // histo: field 5
  const std::string summary = "\x0a" + size(value) + value;
  EXPECT_EQ(event[0], "\x10\x01\x2a" + size(summary) + summary);
}

TEST(TensorBoard, DiagnosticsAreGroupedByWhatTheyAre) {
  const auto line = nlohmann::ordered_json::parse(R"({"step":5,"tokens":77,"diagnostics":{
    "layers":[{"name":"a","weight":{"masked":0.5,"code_use":[1,2]},"input":{"kurtosis":3}}],
    "gradient_cosine":[{"block":1,"part":"mlp","mean":0.5,"std":null},{"block":2,"part":"attn"}],
    "masks_retained":[{"since_step":9,"retained":1}]}})");
  const auto records = read_records(tensorboard_event(line, 0));
  ASSERT_EQ(records.size(), 1u);
  const auto has = [&](const std::string& tag) {
    return records[0].find(std::string(1, static_cast<char>(tag.size())) + tag + "\x15") !=
           std::string::npos;
  };
  EXPECT_TRUE(has("diagnostics.masked/a.weight"));
  EXPECT_TRUE(has("diagnostics.kurtosis/a.input"));
  EXPECT_TRUE(has("diagnostics.gradient_cosine/block1.mlp"));
  EXPECT_TRUE(has("diagnostics.masks_retained/since_step_9"));
  for (const char* absent : {"code_use", "_std", "block2", "tokens"}) {
    EXPECT_EQ(records[0].find(absent), std::string::npos) << absent;
  }
}

TEST(Metrics, ResumeCutsWhatTheCheckpointDidNotSee) {
  const testing::TemporaryFolder run;
  MetricsPosition position;
  {
    MetricsWriter writer(run.path(), true, {});
    writer.write({{"step", 1}, {"loss", 3.0}});
    position = writer.sync();
    writer.write({{"step", 2}, {"loss", 2.0}});
  }
  {
    MetricsWriter writer(run.path(), true, position);
    writer.write({{"step", 2}, {"loss", std::numeric_limits<double>::quiet_NaN()}});
  }
  EXPECT_EQ(read_file(run.path() / "metrics.jsonl"),
            "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"loss\":null}\n");
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(run.path() / "tensorboard")) {
    ++files;
    EXPECT_EQ(entry.path().filename(), position.event_file);
    EXPECT_EQ(read_records(read_file(entry.path())).size(), 3u);  // header and two steps
  }
  EXPECT_EQ(files, 1u);
}

TEST(Metrics, ARunThatBeginsAnewHasOneEventFile) {
  const testing::TemporaryFolder run;
  run.write("tensorboard/events.out.tfevents.1.killed", "x");
  run.write("tensorboard/notes.txt", "kept");
  const MetricsWriter writer(run.path(), true, {});
  EXPECT_FALSE(fs::exists(run.path() / "tensorboard/events.out.tfevents.1.killed"));
  EXPECT_TRUE(fs::exists(run.path() / "tensorboard/notes.txt"));
}

TEST(Metrics, UnwritableIsAClearError) {
  const testing::TemporaryFolder run;
  EXPECT_QUEST_ERROR(AppendFile(run.path() / "no" / "x", 0), ErrorKind::kIo, "no/x");
}

}  // namespace
}  // namespace quest::train
