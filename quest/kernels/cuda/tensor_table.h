// Many tensors in one launch: a table that a kernel takes by value, so that nothing has to lie in
// device memory and a CUDA graph records it. Without CUDA's types, so that a test on a CPU can
// follow every block.
//
//   for_each_table<Table>(tensors, count, blocks_of, [&](const Table& table, int64_t first) {
//     kernel<<<table.blocks(), threads, 0, stream>>>(table);     // tensors first, first + 1, ...
//   });
//   // in the kernel, whose parameter is `const __grid_constant__ Table table`:
//   const TablePlace place = table.place_of(blockIdx.x);
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define QUEST_TABLE __host__ __device__
#else
#define QUEST_TABLE
#endif

namespace quest::kernels::cuda {

// What the parameters of a kernel may take, and what is left for those beside the table.
inline constexpr size_t kParameterBytes = 4096, kOtherParameterBytes = 96;

// A block's work.
struct TablePlace {
  int tensor;      // in the table
  uint32_t block;  // of that tensor, from 0
};

template <class T>
struct TensorTable {
  using Tensor = T;
  static constexpr int kCapacity = static_cast<int>(
      (kParameterBytes - kOtherParameterBytes - 2 * sizeof(int64_t)) / (sizeof(T) + 4));

  T tensors[kCapacity];
  uint32_t ends[kCapacity];  // blocks of all tensors up to and with this one
  int count = 0;

  unsigned blocks() const { return count == 0 ? 0 : ends[count - 1]; }

  // block < blocks(). The first tensor that ends beyond it: tensors without blocks have no place.
  QUEST_TABLE TablePlace place_of(uint32_t block) const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (block < ends[middle]) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return {low, low == 0 ? block : block - ends[low - 1]};
  }
};

// Largest number of blocks of a launch (a grid's first dimension), and so of a table.
inline constexpr int64_t kMaxTableBlocks = (int64_t{1} << 31) - 1;

// f(table, first) for tables of `count` tensors in order, `first` being the place of a table's
// first one; blocks_of(tensor) blocks each, at most kMaxTableBlocks. Tables without blocks are left
// out.
template <class Table, class BlocksOf, class F>
void for_each_table(const typename Table::Tensor* tensors, int64_t count, BlocksOf&& blocks_of,
                    F&& f) {
  static_assert(sizeof(Table) + kOtherParameterBytes <= kParameterBytes);
  Table table;
  int64_t blocks = 0;
  const auto flush = [&](int64_t next) {
    if (blocks > 0) f(static_cast<const Table&>(table), next - table.count);
    table.count = 0;
    blocks = 0;
  };
  for (int64_t i = 0; i < count; ++i) {
    const int64_t own = blocks_of(tensors[i]);
    if (table.count == Table::kCapacity || blocks + own > kMaxTableBlocks) flush(i);
    blocks += own;
    table.tensors[table.count] = tensors[i];
    table.ends[table.count] = static_cast<uint32_t>(blocks);
    ++table.count;
  }
  flush(count);
}

}  // namespace quest::kernels::cuda
