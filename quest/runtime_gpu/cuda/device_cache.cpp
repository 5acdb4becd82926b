#include "quest/runtime_gpu/cuda/device_cache.h"

#include <algorithm>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/runtime_gpu/cuda/tensors.h"

namespace quest::runtime_gpu {

using kernels::cuda::deploy::kPagePositions;

namespace {

constexpr int64_t kFirstSlots = 16;
// Pages are allocated by the slab: few allocations, little left over.
constexpr int64_t kSlabBytes = int64_t{64} << 20;

}  // namespace

DeviceCache::DeviceCache(const kernels::cuda::deploy::KvLayout& layout, int64_t context)
    : layout_(layout), pages_per_sequence_(divide_up(context, kPagePositions)) {
  check_layout(layout);
}

SequenceId DeviceCache::add() {
  if (free_slots_.empty()) {
    const int64_t old = tables_.defined() ? tables_.size(0) : 0;
    const int64_t slots = std::max(kFirstSlots, 2 * old);
    const at::Tensor tables =
        at::zeros({slots, pages_per_sequence_}, at::TensorOptions(at::kLong).device(at::kCUDA));
    if (old > 0) tables.narrow(0, 0, old).copy_(tables_);
    tables_ = tables;
    ++version_;
    for (int64_t slot = slots - 1; slot >= old; --slot) {
      free_slots_.push_back(static_cast<int32_t>(slot));
    }
  }
  DeviceSequence sequence;
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  sequences_.emplace(next_, std::move(sequence));
  return next_++;
}

DeviceSequence& DeviceCache::get(SequenceId id) {
  const auto it = sequences_.find(id);
  QUEST_CHECK(it != sequences_.end(), ErrorKind::kUsage,
              "there is no sequence {}: it was never added, or has been removed", id);
  return it->second;
}

const DeviceSequence& DeviceCache::get(SequenceId id) const {
  return const_cast<DeviceCache*>(this)->get(id);
}

void DeviceCache::truncate(SequenceId id, int64_t length) {
  DeviceSequence& sequence = get(id);
  QUEST_CHECK(length >= 0 && length <= sequence.length, ErrorKind::kUsage,
              "sequence {} has {} tokens and cannot be cut to {}", id, sequence.length, length);
  sequence.length = length;
  const auto pages = static_cast<size_t>(divide_up(length, kPagePositions));
  while (sequence.pages.size() > pages) {
    free_pages_.push_back(sequence.pages.back());
    sequence.pages.pop_back();
  }
}

void DeviceCache::remove(SequenceId id) {
  truncate(id, 0);
  free_slots_.push_back(get(id).slot);
  sequences_.erase(id);
}

void DeviceCache::take_memory(int64_t pages) {
  const int64_t bytes = layout_.page_bytes();
  const int64_t count = std::max(pages, kSlabBytes / bytes);
  memory_.push_back(at::empty({count * bytes}, at::TensorOptions(at::kByte).device(at::kCUDA)));
  const auto base = reinterpret_cast<int64_t>(memory_.back().data_ptr());
  for (int64_t i = count - 1; i >= 0; --i) free_pages_.push_back(base + i * bytes);
}

void DeviceCache::reserve(DeviceSequence& sequence, int64_t positions) {
  const auto pages = static_cast<size_t>(divide_up(positions, kPagePositions));
  const size_t first = sequence.pages.size();
  if (pages <= first) return;
  const size_t wanted = pages - first;
  if (free_pages_.size() < wanted) {
    take_memory(static_cast<int64_t>(wanted - free_pages_.size()));
  }
  for (size_t i = 0; i < wanted; ++i) {
    sequence.pages.push_back(free_pages_.back());
    free_pages_.pop_back();
  }
  write_table(sequence, first);
}

// Waits for the copy: the pages' addresses lie in memory that changes with the sequence.
void DeviceCache::write_table(const DeviceSequence& sequence, size_t first) {
  const auto count = static_cast<int64_t>(sequence.pages.size() - first);
  tables_.select(0, sequence.slot)
      .narrow(0, static_cast<int64_t>(first), count)
      .copy_(
          at::from_blob(const_cast<int64_t*>(sequence.pages.data() + first), {count}, at::kLong));
}

kernels::cuda::deploy::KvCacheView DeviceCache::view() const {
  return {layout_, static_cast<uint8_t* const*>(tables_.data_ptr()), pages_per_sequence_};
}

int64_t DeviceCache::bytes() const {
  int64_t sum = bytes_of({tables_});
  for (const at::Tensor& slab : memory_) sum += bytes_of({slab});
  return sum;
}

}  // namespace quest::runtime_gpu
