// The paged cache of a GPU engine (quest/kernels/cuda/kv_cache.h): which pages a sequence has, and
// the tables of their addresses in device memory.
//
//   DeviceCache cache(layout, context);
//   DeviceSequence& s = cache.get(cache.add());
//   cache.reserve(s, 100);                        // room for 100 positions
//   rope_append(cache.view(), layer, ..., {slots, positions, rows}, stream);
//
// Pages are taken as a sequence grows and given to others when it shrinks. version() changes when
// view() does: what was recorded with the old one must not run again.
//
// Thread rules: one thread. Errors: kUsage for an unknown sequence or a length that it does not
// have; what LibTorch throws when the device's memory is used up, with what was there unchanged.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "quest/kernels/cuda/kv_cache.h"
#include "quest/runtime/engine.h"

namespace quest::runtime_gpu {

struct DeviceSequence {
  int32_t slot = 0;
  int64_t length = 0;          // positions that are filled
  std::vector<int64_t> pages;  // device addresses
};

class DeviceCache {
 public:
  DeviceCache(const kernels::cuda::deploy::KvLayout& layout, int64_t context);

  SequenceId add();
  void remove(SequenceId id);
  DeviceSequence& get(SequenceId id);
  const DeviceSequence& get(SequenceId id) const;
  void truncate(SequenceId id, int64_t length);
  void reserve(DeviceSequence& sequence, int64_t positions);

  const kernels::cuda::deploy::KvLayout& layout() const { return layout_; }
  // Of the tables that there are: once a sequence has been added.
  kernels::cuda::deploy::KvCacheView view() const;
  int64_t version() const { return version_; }
  int64_t bytes() const;  // of all pages and tables

 private:
  void take_memory(int64_t pages);
  void write_table(const DeviceSequence& sequence, size_t first);

  kernels::cuda::deploy::KvLayout layout_;
  int64_t pages_per_sequence_ = 0;
  SequenceId next_ = 1;
  std::map<SequenceId, DeviceSequence> sequences_;
  std::vector<int32_t> free_slots_;
  std::vector<int64_t> free_pages_;
  std::vector<at::Tensor> memory_;
  at::Tensor tables_;  // (slots, pages_per_sequence) int64
  int64_t version_ = 0;
};

}  // namespace quest::runtime_gpu
