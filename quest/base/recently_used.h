// Few values by key, of which the one unused for longest makes room for a new one.
//
//   RecentlyUsed<int, Graph> graphs(4);
//   Graph* graph = graphs.find(7);       // null, or the value, which is used now
//   if (graph == nullptr) graph = &graphs.add(7, std::make_unique<Graph>());
//
// Looking takes time in proportion to how many there are. Thread rules: one thread at a time.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <list>
#include <memory>
#include <utility>

namespace quest {

template <class Key, class Value>
class RecentlyUsed {
 public:
  using Entry = std::pair<Key, std::unique_ptr<Value>>;

  // most >= 1
  explicit RecentlyUsed(size_t most) : most_(most) { assert(most >= 1); }

  Value* find(const Key& key) {
    const auto at = std::find_if(entries_.begin(), entries_.end(),
                                 [&](const Entry& entry) { return entry.first == key; });
    if (at == entries_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, at);
    return at->second.get();
  }
  // value: not null, of a key that is not there.
  Value& add(const Key& key, std::unique_ptr<Value> value) {
    while (entries_.size() >= most_) entries_.pop_back();
    return *entries_.emplace_front(key, std::move(value)).second;
  }
  void clear() { entries_.clear(); }

  size_t size() const { return entries_.size(); }
  // Entries, the one used last first.
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }

 private:
  size_t most_;
  std::list<Entry> entries_;
};

}  // namespace quest
