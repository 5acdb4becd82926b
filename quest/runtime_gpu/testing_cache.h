// A paged cache on a GPU beside the CPU's, for tests: the same sequences in both, pages of the
// GPU's in shuffled order, memory that nobody wrote NaN. Tests only; header only.
#pragma once

#include <bit>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "quest/base/float16.h"
#include "quest/kernels/cuda/kv_cache.h"
#include "quest/kernels/deploy.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/kernels/rope.h"
#include "quest/runtime_gpu/testing_device.h"

namespace quest::testing {

namespace gpu = kernels::cuda::deploy;
namespace cpu = kernels::deploy;

struct HeadSizes {
  int64_t kv_heads, group, dim;
  int64_t heads() const { return kv_heads * group; }
  int64_t width() const { return (heads() + 2 * kv_heads) * dim; }
};

// One layer's keys, values and queries of one row as the CPU's engine makes them from qkv.
class CpuLayer {
 public:
  CpuLayer(gpu::KvFormat format, const HeadSizes& sizes)
      : sizes_(sizes),
        int8_(format == gpu::KvFormat::kInt8),
        shape_{int8_ ? cpu::KvFormat::kInt8 : cpu::KvFormat::kFp16, sizes.dim} {}

  // row (width): turned, for int8 transformed, in place; keys and values kept.
  void append(int32_t slot, int32_t position, float* row, const float* cos, const float* sin) {
    const int64_t dim = sizes_.dim, heads = sizes_.heads(), kv_heads = sizes_.kv_heads;
    kernels::rope(row, 1, sizes_.width(), heads + kv_heads, dim, cos, sin, &position, +1);
    if (int8_) kernels::hadamard_rows(row, heads + 2 * kv_heads, dim, row);
    for (int64_t g = 0; g < kv_heads; ++g) {
      const float* k = row + (heads + g) * dim;
      cpu::append_kv(shape_, k, k + kv_heads * dim, position % 64, block(slot, g, position / 64));
    }
  }

  // out (H D) of one row at `position`, in the plain basis.
  void attend(int32_t slot, int32_t position, const float* row, float* out) {
    const int64_t dim = sizes_.dim;
    std::vector<uint8_t> memory(static_cast<size_t>(cpu::attend_scratch_bytes(shape_)) + 64);
    void* scratch = memory.data() + (64 - std::bit_cast<uintptr_t>(memory.data()) % 64);
    for (int64_t g = 0; g < sizes_.kv_heads; ++g) {
      std::vector<const uint8_t*> blocks;
      for (int64_t page = 0; page * 64 <= position; ++page) blocks.push_back(block(slot, g, page));
      cpu::AttendTask task;
      task.blocks = blocks.data();
      task.q = row + g * sizes_.group * dim;
      task.q_stride = sizes_.width();
      task.tokens = 1;
      task.group = sizes_.group;
      task.first_position = position;
      task.out = out + g * sizes_.group * dim;
      task.out_stride = sizes_.heads() * dim;
      cpu::attend(shape_, task, scratch);
    }
    if (int8_) kernels::hadamard_rows(out, sizes_.heads(), dim, out);
  }

  // Stored element d of the key (part 0) or value (part 1), and the unit of int8.
  int32_t element(int32_t slot, int32_t position, int64_t g, int part, int64_t d) {
    const uint8_t* b = block(slot, g, position / 64);
    const int64_t at = position % 64;
    const int64_t index = part == 0 ? at / 16 * 16 * sizes_.dim + d * 16 + at % 16
                                    : 64 * sizes_.dim + at * shape_.padded_dim() + d;
    if (int8_) return static_cast<int8_t>(b[index]);
    uint16_t half = 0;
    std::memcpy(&half, b + 2 * index, 2);
    return half;
  }
  float unit(int32_t slot, int32_t position, int64_t g, int part) {
    float value = 0;
    std::memcpy(&value,
                block(slot, g, position / 64) + shape_.key_bytes() + shape_.value_bytes() +
                    (part * 64 + position % 64) * 4,
                4);
    return value;
  }

 private:
  uint8_t* block(int32_t slot, int64_t g, int64_t page) {
    std::vector<uint8_t>& memory = blocks_[{slot, g, page}];
    if (memory.empty()) memory.resize(static_cast<size_t>(shape_.block_bytes()) + 64);
    uint8_t* p = memory.data();
    return p + (64 - std::bit_cast<uintptr_t>(p) % 64) % 64;
  }

  HeadSizes sizes_;
  bool int8_;
  cpu::KvShape shape_;
  std::map<std::tuple<int32_t, int64_t, int64_t>, std::vector<uint8_t>> blocks_;
};

class GpuCache {
 public:
  GpuCache(gpu::KvFormat format, const HeadSizes& sizes, int64_t layers, int64_t slots,
           int64_t pages)
      : layout_{format, layers, sizes.kv_heads, sizes.dim},
        pages_(pages),
        memory_(unwritten({slots * pages, layout_.page_bytes()}, at::kByte)) {
    const at::Tensor table = at::empty({slots * pages}, at::kLong);
    const auto base = std::bit_cast<int64_t>(memory_.data_ptr());
    for (int64_t i = 0; i < slots * pages; ++i) {
      ops::data<int64_t>(table)[i] = base + page_of(i) * layout_.page_bytes();
    }
    table_ = table.cuda();
  }
  gpu::KvCacheView view() const {
    return {layout_, static_cast<uint8_t* const*>(table_.data_ptr()), pages_};
  }
  const gpu::KvLayout& layout() const { return layout_; }
  at::Tensor bytes() const { return memory_.cpu(); }
  // Of bytes(): the head that holds a position.
  const uint8_t* head(const at::Tensor& bytes, int64_t layer, int32_t slot, int32_t position,
                      int64_t g) const {
    return ops::data<uint8_t>(bytes) +
           page_of(slot * pages_ + position / 64) * layout_.page_bytes() + layout_.offset(layer, g);
  }

 private:
  // 0, n - 1, 1, n - 2, ...: no two neighbours lie beside each other.
  int64_t page_of(int64_t i) const {
    const int64_t n = memory_.size(0);
    return i % 2 == 0 ? i / 2 : n - 1 - i / 2;
  }

  gpu::KvLayout layout_;
  int64_t pages_;
  at::Tensor memory_, table_;
};

}  // namespace quest::testing
