// Keys and values of the sequences of an engine, in pages of 64 positions.
//
// A page holds, of all blocks and key-value heads of a model, 64 positions of one sequence
// (kernels/deploy.h has the layout of one head). Pages are taken as a sequence grows and given to
// other sequences when it shrinks: sequences of any lengths share memory without copies.
//
//   KvCache cache(config, KvFormat::kFp16);
//   KvSequence& s = cache.get(cache.add());
//   cache.reserve(s, 100);                                  // room for 100 positions
//   uint8_t* head = s.pages[p / 64] + cache.head_offset(block, kv_head);
//
// Thread rules: one thread changes it; between changes any number may use the pages.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "quest/kernels/deploy.h"
#include "quest/model/llama_config.h"
#include "quest/runtime/aligned_buffer.h"
#include "quest/runtime/engine.h"

namespace quest {

using KvFormat = kernels::deploy::KvFormat;

struct KvSequence {
  std::vector<uint8_t*> pages;
  int64_t length = 0;  // positions that are filled
};

class KvCache {
 public:
  KvCache(const LlamaConfig& config, KvFormat format);

  SequenceId add();
  void remove(SequenceId id);  // throws kUsage for an unknown one, as all here
  KvSequence& get(SequenceId id);
  const KvSequence& get(SequenceId id) const;
  void truncate(SequenceId id, int64_t length);
  // Pages for `positions` positions. Throws std::bad_alloc; what is there stays.
  void reserve(KvSequence& sequence, int64_t positions);

  const kernels::deploy::KvShape& shape() const { return shape_; }
  int64_t head_offset(int64_t block, int64_t kv_head) const {
    return (block * kv_heads_ + kv_head) * shape_.block_bytes();
  }
  int64_t page_bytes() const { return page_bytes_; }
  int64_t bytes() const;  // of all pages

 private:
  kernels::deploy::KvShape shape_;
  int64_t kv_heads_ = 0, page_bytes_ = 0;
  SequenceId next_ = 1;
  std::map<SequenceId, KvSequence> sequences_;
  std::vector<AlignedBuffer<uint8_t>> memory_;
  std::vector<uint8_t*> free_;
};

}  // namespace quest
