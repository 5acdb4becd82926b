#include "quest/runtime/kv_cache.h"

#include "quest/base/error.h"
#include "quest/base/integer_math.h"

namespace quest {

using kernels::deploy::kKvBlock;

KvCache::KvCache(const LlamaConfig& config, KvFormat format)
    : shape_{format, config.head_dim},
      kv_heads_(config.num_kv_heads),
      page_bytes_(config.num_layers * config.num_kv_heads * shape_.block_bytes()) {}

SequenceId KvCache::add() {
  sequences_.emplace(next_, KvSequence{});
  return next_++;
}

KvSequence& KvCache::get(SequenceId id) {
  const auto it = sequences_.find(id);
  QUEST_CHECK(it != sequences_.end(), ErrorKind::kUsage,
              "there is no sequence {}: it was never added, or has been removed", id);
  return it->second;
}

const KvSequence& KvCache::get(SequenceId id) const { return const_cast<KvCache*>(this)->get(id); }

void KvCache::truncate(SequenceId id, int64_t length) {
  KvSequence& sequence = get(id);
  QUEST_CHECK(length >= 0 && length <= sequence.length, ErrorKind::kUsage,
              "sequence {} has {} tokens and cannot be cut to {}", id, sequence.length, length);
  sequence.length = length;
  const auto pages = static_cast<size_t>(divide_up(length, kKvBlock));
  while (sequence.pages.size() > pages) {
    free_.push_back(sequence.pages.back());
    sequence.pages.pop_back();
  }
}

void KvCache::remove(SequenceId id) {
  truncate(id, 0);
  sequences_.erase(id);
}

void KvCache::reserve(KvSequence& sequence, int64_t positions) {
  const auto pages = static_cast<size_t>(divide_up(positions, kKvBlock));
  while (sequence.pages.size() < pages) {
    if (free_.empty()) {
      memory_.emplace_back(page_bytes_);
      free_.push_back(memory_.back().data());
    }
    sequence.pages.push_back(free_.back());
    free_.pop_back();
  }
}

int64_t KvCache::bytes() const { return static_cast<int64_t>(memory_.size()) * page_bytes_; }

}  // namespace quest
