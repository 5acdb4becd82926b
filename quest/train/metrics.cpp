#include "quest/train/metrics.h"

#include "tensorboard.pb.h"
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quest/base/error.h"
#include "quest/base/log.h"

namespace quest::train {

namespace fs = std::filesystem;
namespace {

constexpr std::array<uint32_t, 256> crc32c_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t n = 0; n < 256; ++n) {
    uint32_t crc = n;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0);
    table[n] = crc;
  }
  return table;
}

double seconds_since_1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

template <class T>
void append_little_endian(std::string& out, T value) {
  for (size_t k = 0; k < sizeof(T); ++k) out += static_cast<char>((value >> (8 * k)) & 0xFF);
}

std::string host_name() {
  char name[256] = "localhost";
  if (gethostname(name, sizeof name - 1) != 0) return "localhost";
  return name;
}

// Nothing for what is no number.
void add_scalar(const std::string& tag, const nlohmann::ordered_json& value,
                tensorboard::Summary& summary) {
  if (!value.is_number()) return;
  tensorboard::Summary::Value* scalar = summary.add_value();
  scalar->set_tag(tag);
  scalar->set_simple_value(value.get<float>());
}

void add_diagnostics(const nlohmann::ordered_json& diagnostics, tensorboard::Summary& summary) {
  const auto list = [&](const char* key) {
    return diagnostics.value(key, nlohmann::ordered_json::array());
  };
  for (const auto& layer : list("layers")) {
    for (const char* side : {"weight", "input"}) {
      const std::string name = fmt::format("{}.{}", layer.at("name").get<std::string>(), side);
      for (const auto& [key, value] : layer.at(side).items()) {
        add_scalar(fmt::format("diagnostics.{}/{}", key, name), value, summary);
      }
    }
  }
  for (const auto& part : list("gradient_cosine")) {
    const std::string name = fmt::format("block{}.{}", part.at("block").get<int64_t>(),
                                         part.at("part").get<std::string>());
    for (const auto& [key, suffix] : {std::pair("mean", ""), std::pair("std", "_std")}) {
      if (!part.contains(key)) continue;
      add_scalar(fmt::format("diagnostics.gradient_cosine{}/{}", suffix, name), part.at(key),
                 summary);
    }
  }
  for (const auto& masks : list("masks_retained")) {
    add_scalar(fmt::format("diagnostics.masks_retained/since_step_{}",
                           masks.at("since_step").get<int64_t>()),
               masks.at("retained"), summary);
  }
}

void add_histogram(const Histogram& histogram, tensorboard::Summary& summary) {
  tensorboard::Summary::Value* value = summary.add_value();
  value->set_tag(histogram.tag);
  tensorboard::HistogramProto* out = value->mutable_histo();
  out->set_min(histogram.min);
  out->set_max(histogram.max);
  out->set_num(histogram.count);
  out->set_sum(histogram.sum);
  out->set_sum_squares(histogram.sum_squares);
  for (const double limit : histogram.limits) out->add_bucket_limit(limit);
  for (const double count : histogram.counts) out->add_bucket(count);
}

}  // namespace

AppendFile::AppendFile(fs::path path, int64_t length) : path_(std::move(path)) {
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  QUEST_CHECK(fd_ >= 0, ErrorKind::kIo, "cannot write {}: {}", path_.string(), errno_text(errno));
  struct stat status = {};
  int failed = fstat(fd_, &status);
  if (!failed && status.st_size < length) {
    log::warn("{} has {} bytes, {} were there at the checkpoint: lines are missing in it",
              path_.string(), status.st_size, length);
    length = status.st_size;
  }
  failed = failed || ftruncate(fd_, length) != 0 || lseek(fd_, 0, SEEK_END) < 0;
  const int reason = errno;
  if (failed) close(fd_);
  QUEST_CHECK(!failed, ErrorKind::kIo, "cannot cut {} to {} bytes: {}", path_.string(), length,
              errno_text(reason));
  length_ = length;
}

AppendFile::~AppendFile() { close(fd_); }

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    QUEST_CHECK(n > 0, ErrorKind::kIo, "cannot write {}: {}", path_.string(), errno_text(errno));
    bytes.remove_prefix(static_cast<size_t>(n));
    length_ += n;
  }
}

void AppendFile::sync() {
  QUEST_CHECK(fsync(fd_) == 0, ErrorKind::kIo, "cannot write {}: {}", path_.string(),
              errno_text(errno));
}

uint32_t masked_crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc32c_table();
  uint32_t crc = 0xFFFFFFFFu;
  for (const char c : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xFF];
  crc = ~crc;
  return std::rotr(crc, 15) + 0xa282ead8u;
}

std::string tfrecord(std::string_view message) {
  std::string out;
  append_little_endian(out, static_cast<uint64_t>(message.size()));
  append_little_endian(out, masked_crc32c(out));
  out += message;
  append_little_endian(out, masked_crc32c(message));
  return out;
}

std::string tensorboard_header(double wall_time) {
  tensorboard::Event event;
  event.set_wall_time(wall_time);
  event.set_file_version("brain.Event:2");
  return tfrecord(event.SerializeAsString());
}

std::string tensorboard_event(const nlohmann::ordered_json& line, double wall_time,
                              const std::vector<Histogram>& histograms) {
  tensorboard::Event event;
  event.set_wall_time(wall_time);
  event.set_step(line.at("step").get<int64_t>());
  tensorboard::Summary& summary = *event.mutable_summary();
  if (line.contains("diagnostics")) {
    add_diagnostics(line.at("diagnostics"), summary);
  } else {
    const std::string group = line.contains("validation_loss") ? "validation/" : "train/";
    for (const auto& [key, value] : line.items()) {
      if (key != "step") add_scalar(group + key, value, summary);
    }
  }
  for (const Histogram& h : histograms) add_histogram(h, summary);
  return tfrecord(event.SerializeAsString());
}

MetricsWriter::MetricsWriter(const fs::path& run, bool tensorboard, const MetricsPosition& position)
    : metrics_(std::make_unique<AppendFile>(run / "metrics.jsonl", position.metrics_bytes)),
      event_file_(position.event_file),
      event_bytes_(position.event_bytes) {
  if (!tensorboard) return;
  const fs::path folder = run / "tensorboard";
  std::error_code error;
  // Files that no checkpoint knows of belong to steps that will be done again.
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("events.out.tfevents.") && name != event_file_) {
      fs::remove(entry.path(), error);
    }
  }
  fs::create_directories(folder, error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot create the folder {}: {}", folder.string(),
              error.message());
  const double now = seconds_since_1970();
  const bool fresh = event_file_.empty();
  if (fresh) {
    event_file_ = fmt::format("events.out.tfevents.{}.{}", static_cast<int64_t>(now), host_name());
  }
  events_ = std::make_unique<AppendFile>(folder / event_file_, fresh ? 0 : position.event_bytes);
  if (events_->length() == 0) events_->append(tensorboard_header(now));
}

void MetricsWriter::write(const nlohmann::ordered_json& line,
                          const std::vector<Histogram>& histograms) {
  metrics_->append(line.dump() + "\n");
  if (events_) events_->append(tensorboard_event(line, seconds_since_1970(), histograms));
}

MetricsPosition MetricsWriter::sync() {
  metrics_->sync();
  if (events_) events_->sync();
  return {metrics_->length(), event_file_, events_ ? events_->length() : event_bytes_};
}

}  // namespace quest::train
