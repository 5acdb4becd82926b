// Memory aligned to 64 bytes, not initialised.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace quest {

template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t count) { grow(count); }

  // At least `count` elements; the content is lost if the buffer must grow.
  void grow(int64_t count) {
    if (count <= count_) return;
    const auto bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    data_.reset();
    count_ = 0;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
    count_ = count;
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t count_ = 0;
};

}  // namespace quest
