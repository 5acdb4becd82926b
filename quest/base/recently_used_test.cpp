#include "quest/base/recently_used.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace quest {
namespace {

using Store = RecentlyUsed<std::pair<int, int>, std::string>;

std::vector<std::string> values(const Store& store) {
  std::vector<std::string> all;
  for (const auto& [key, value] : store) all.push_back(*value);
  return all;
}

std::string& add(Store& store, int key, const char* value) {
  return store.add({key, -key}, std::make_unique<std::string>(value));
}

TEST(RecentlyUsed, TheOneUnusedForLongestMakesRoom) {
  Store store(3);
  EXPECT_EQ(store.find({1, -1}), nullptr);
  add(store, 1, "a");
  add(store, 2, "b");
  add(store, 3, "c");
  EXPECT_EQ(values(store), (std::vector<std::string>{"c", "b", "a"}));
  EXPECT_EQ(*store.find({1, -1}), "a");
  add(store, 4, "d");
  EXPECT_EQ(store.find({2, -2}), nullptr) << "b was used before a";
  EXPECT_EQ(values(store), (std::vector<std::string>{"d", "a", "c"}));
  add(store, 5, "e");
  add(store, 6, "f");
  EXPECT_EQ(values(store), (std::vector<std::string>{"f", "e", "d"}));
}

TEST(RecentlyUsed, ValuesStayWhereTheyAreWhileOthersComeAndGo) {
  Store store(2);
  std::string* const kept = &add(store, 1, "kept");
  for (int key = 2; key < 9; ++key) {
    EXPECT_EQ(store.find({1, -1}), kept);
    add(store, key, "other");
  }
  EXPECT_EQ(*kept, "kept");
}

TEST(RecentlyUsed, HoldsOneAndNoneAfterClear) {
  Store store(1);
  add(store, 1, "a");
  add(store, 2, "b");
  EXPECT_EQ(values(store), std::vector<std::string>{"b"});
  store.clear();
  EXPECT_EQ(store.size(), 0);
  EXPECT_EQ(store.find({2, -2}), nullptr);
  add(store, 2, "again");
  EXPECT_EQ(*store.find({2, -2}), "again");
}

}  // namespace
}  // namespace quest
