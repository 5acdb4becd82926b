#include "quest/train/mask_history.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>

#include "quest/base/error.h"
#include "quest/base/safetensors.h"

namespace quest::train {
namespace {

constexpr std::string_view kMaskPrefix = "mask.step-";

// Bits set in any of the two.
int64_t count_union(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  int64_t count = 0;
  size_t k = 0;
  for (; k + 8 <= a.size(); k += 8) {
    uint64_t x = 0, y = 0;
    std::memcpy(&x, &a[k], 8);
    std::memcpy(&y, &b[k], 8);
    count += std::popcount(x | y);
  }
  for (; k < a.size(); ++k) count += std::popcount(static_cast<unsigned>(a[k] | b[k]));
  return count;
}

// A whole number of at least 0, written with digits alone.
std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = -1;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

std::optional<int64_t> step_of_mask(std::string_view name) {
  if (!name.starts_with(kMaskPrefix)) return std::nullopt;
  return whole_number(name.substr(kMaskPrefix.size()));
}

int64_t metadata_number(const SafetensorsReader& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  const std::optional<int64_t> value =
      found == file.metadata().end() ? std::nullopt : whole_number(found->second);
  QUEST_CHECK(value, ErrorKind::kData, "{}: metadata '{}' is missing or no number",
              file.path().string(), key);
  return *value;
}

}  // namespace

std::vector<MaskHistory::Retained> MaskHistory::retained(std::span<const uint8_t> bits,
                                                         int64_t weights) const {
  std::vector<Retained> out;
  for (const Entry& then : entries_) {
    QUEST_ASSERT(then.bits.size() == bits.size(), "masks of {} and of {} bytes", then.bits.size(),
                 bits.size());
    const int64_t masked = weights - count_union(then.bits, then.bits);
    const int64_t still = weights - count_union(then.bits, bits);
    if (masked > 0) {
      out.push_back({then.step, static_cast<double>(still) / static_cast<double>(masked)});
    }
  }
  return out;
}

void MaskHistory::add(int64_t step, std::span<const uint8_t> bits) {
  if (keep_ == 0) return;
  if (added_++ % stride_ != 0) return;
  entries_.push_back({step, {bits.begin(), bits.end()}});
  thin();
}

// Every second one, until there are few enough.
void MaskHistory::thin() {
  while (std::ssize(entries_) > keep_) {
    stride_ *= 2;
    std::vector<Entry> fewer;
    for (size_t k = 0; k < entries_.size(); k += 2) fewer.push_back(std::move(entries_[k]));
    entries_ = std::move(fewer);
  }
}

std::vector<int64_t> MaskHistory::steps() const {
  std::vector<int64_t> out;
  for (const Entry& entry : entries_) out.push_back(entry.step);
  return out;
}

void MaskHistory::save(const std::filesystem::path& path) const {
  if (entries_.empty()) return;
  SafetensorsWriter file(path);
  file.set_metadata("added", fmt::format("{}", added_));
  file.set_metadata("stride", fmt::format("{}", stride_));
  for (const Entry& entry : entries_) {
    file.add<uint8_t>(fmt::format("{}{:08}", kMaskPrefix, entry.step),
                      {static_cast<int64_t>(entry.bits.size())}, entry.bits);
  }
  file.finish();
}

void MaskHistory::load(const std::filesystem::path& path, int64_t bytes) {
  entries_.clear();
  added_ = 0;
  stride_ = 1;
  if (keep_ == 0 || !std::filesystem::exists(path)) return;
  const SafetensorsReader file(path);
  added_ = metadata_number(file, "added");
  stride_ = metadata_number(file, "stride");
  for (const TensorView& t : file.tensors()) {
    Entry entry;
    const std::optional<int64_t> step = step_of_mask(t.name);
    QUEST_CHECK(step && t.dtype == DType::kU8 && t.shape == std::vector<int64_t>{bytes},
                ErrorKind::kData, "{}: {} is no mask of {} bytes", path.string(), t.name, bytes);
    entry.step = *step;
    entry.bits = t.to_vector<uint8_t>();
    entries_.push_back(std::move(entry));
  }
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return a.step < b.step; });
  const int64_t kept = std::ssize(entries_);
  QUEST_CHECK(stride_ > 0 && added_ > 0 && (added_ - 1) / stride_ + 1 == kept, ErrorKind::kData,
              "{}: {} masks with stride {} are not what {} steps leave", path.string(), kept,
              stride_, added_);
  thin();
}

}  // namespace quest::train
