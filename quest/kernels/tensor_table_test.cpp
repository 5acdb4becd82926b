// How the blocks of a launch find their tensors (quest/kernels/cuda/tensor_table.h), followed on a
// CPU.
#include "quest/kernels/cuda/tensor_table.h"

#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace quest::kernels::cuda {
namespace {

struct Item {
  void* pointers[4];
  int64_t n;
};
using Table = TensorTable<Item>;
constexpr int kCapacity = Table::kCapacity;
constexpr int64_t kChunk = 100;  // values of a block

std::vector<Item> items_of(const std::vector<int64_t>& sizes) {
  std::vector<Item> items;
  for (const int64_t n : sizes) items.push_back({{}, n});
  return items;
}

int64_t blocks_of(const Item& item) { return (item.n + kChunk - 1) / kChunk; }

// (tensor, block of it) of all blocks of all launches, in order.
std::vector<std::pair<int64_t, int64_t>> all_places(const std::vector<Item>& items,
                                                    int* launches = nullptr) {
  std::vector<std::pair<int64_t, int64_t>> places;
  for_each_table<Table>(items.data(), static_cast<int64_t>(items.size()), blocks_of,
                        [&](const Table& table, int64_t first) {
                          if (launches != nullptr) ++*launches;
                          EXPECT_GT(table.blocks(), 0U);
                          for (uint32_t block = 0; block < table.blocks(); ++block) {
                            const TablePlace place = table.place_of(block);
                            EXPECT_LT(place.tensor, table.count);
                            EXPECT_EQ(table.tensors[place.tensor].n,
                                      items[static_cast<size_t>(first + place.tensor)].n);
                            places.emplace_back(first + place.tensor, place.block);
                          }
                        });
  return places;
}

std::vector<std::pair<int64_t, int64_t>> expected_places(const std::vector<Item>& items) {
  std::vector<std::pair<int64_t, int64_t>> places;
  for (size_t i = 0; i < items.size(); ++i) {
    for (int64_t b = 0; b < blocks_of(items[i]); ++b) {
      places.emplace_back(static_cast<int64_t>(i), b);
    }
  }
  return places;
}

TEST(TensorTable, EveryBlockOfEveryTensorIsMetOnceAndInOrder) {
  std::vector<std::vector<int64_t>> lists = {{1},
                                             {0},
                                             {},
                                             {kChunk},
                                             {kChunk + 1, 3},
                                             {0, 1, 0, 0, 250, 0},
                                             {0, 0, 0, 99},
                                             {7, 0, 0, 0},
                                             {5000, 1, 5000}};
  for (const int count : {kCapacity - 1, kCapacity, kCapacity + 1, 2 * kCapacity, 300}) {
    std::vector<int64_t> sizes;
    for (int i = 0; i < count; ++i) sizes.push_back(i % 5 == 4 ? 0 : (i * 37) % 450);
    lists.push_back(sizes);
    lists.emplace_back(count, 1);
  }
  for (const auto& sizes : lists) {
    const std::vector<Item> items = items_of(sizes);
    EXPECT_EQ(all_places(items), expected_places(items)) << sizes.size() << " tensors";
  }
}

TEST(TensorTable, TensorsShareLaunchesAsFarAsATableReaches) {
  const auto launches_of = [](const std::vector<int64_t>& sizes) {
    int launches = 0;
    all_places(items_of(sizes), &launches);
    return launches;
  };
  EXPECT_EQ(launches_of({}), 0);
  EXPECT_EQ(launches_of(std::vector<int64_t>(3 * kCapacity, 0)), 0);
  EXPECT_EQ(launches_of(std::vector<int64_t>(kCapacity, 9)), 1);
  EXPECT_EQ(launches_of(std::vector<int64_t>(kCapacity + 1, 9)), 2);
}

TEST(TensorTable, ALaunchTakesNoMoreBlocksThanAGridHas) {
  const std::vector<Item> items = items_of({kMaxTableBlocks - 2, 2, 1, kMaxTableBlocks});
  std::vector<std::pair<int64_t, unsigned>> launches;
  for_each_table<Table>(
      items.data(), 4, [](const Item& item) { return item.n; },
      [&](const Table& table, int64_t first) {
        launches.emplace_back(first, table.blocks());
        const TablePlace last = table.place_of(table.blocks() - 1);
        EXPECT_EQ(last.tensor, table.count - 1);
        EXPECT_EQ(last.block + 1, table.tensors[last.tensor].n);
      });
  const auto most = static_cast<unsigned>(kMaxTableBlocks);
  EXPECT_EQ(launches, (std::vector<std::pair<int64_t, unsigned>>{{0, most}, {2, 1}, {3, most}}));
}

TEST(TensorTable, FitsTheParametersOfAKernel) {
  EXPECT_LE(sizeof(Table) + kOtherParameterBytes, kParameterBytes);
  EXPECT_GT(sizeof(Table) + kOtherParameterBytes + sizeof(Item) + 16, kParameterBytes);
}

}  // namespace
}  // namespace quest::kernels::cuda
