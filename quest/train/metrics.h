// What a run writes while it trains: metrics.jsonl and TensorBoard event files.
//
// Both are append-only files whose length is part of the checkpoint's state: on resume they are cut
// to that length, so that the curve has neither gaps nor repeats.
//
//   MetricsWriter metrics(run, /*tensorboard=*/true, position);   // cuts, then appends
//   metrics.write({{"step", 10}, {"tokens", 40960}, {"loss", 3.2}});
//   MetricsPosition here = metrics.sync();                        // into state.json
//
// Errors: kIo with path and reason (full disk). Thread rules: one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace quest::train {

// A file that only grows; every append reaches the operating system before it returns.
class AppendFile {
 public:
  // Creates the file or cuts it to `length`. A file shorter than that has lost data: a warning.
  AppendFile(std::filesystem::path path, int64_t length);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes);
  void sync();  // fsync
  int64_t length() const { return length_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  int64_t length_ = 0;
};

// TFRecord framing of one message: length, masked CRC-32C of it, bytes, masked CRC-32C of them.
std::string tfrecord(std::string_view message);
uint32_t masked_crc32c(std::string_view bytes);
// How often values occur: counts[i] of them are in (limits[i - 1], limits[i]].
struct Histogram {
  std::string tag;
  double min = 0, max = 0;
  double count = 0, sum = 0, sum_squares = 0;  // of the values
  std::vector<double> limits, counts;
};

// One TensorBoard event with every number of the line as a scalar: below validation/ if the line
// has a validation_loss, else below train/. Of a line with diagnostics (diagnostics.h) their
// numbers alone, grouped by what they are: diagnostics.masked/LAYER.weight,
// diagnostics.gradient_cosine/block0.attn, diagnostics.masks_retained/since_step_0.
std::string tensorboard_event(const nlohmann::ordered_json& line, double wall_time,
                              const std::vector<Histogram>& histograms = {});
std::string tensorboard_header(double wall_time);  // a file's first event

struct MetricsPosition {
  int64_t metrics_bytes = 0;
  std::string event_file;  // name below tensorboard/; empty: none
  int64_t event_bytes = 0;
};

class MetricsWriter {
 public:
  MetricsWriter(const std::filesystem::path& run, bool tensorboard,
                const MetricsPosition& position);

  // A JSON object with "step". Not-finite numbers become null. Histograms are for TensorBoard.
  void write(const nlohmann::ordered_json& line, const std::vector<Histogram>& histograms = {});
  // Everything written is on the disk.
  MetricsPosition sync();

 private:
  std::unique_ptr<AppendFile> metrics_;
  std::unique_ptr<AppendFile> events_;
  std::string event_file_;
  int64_t event_bytes_ = 0;  // while no events are written
};

}  // namespace quest::train
