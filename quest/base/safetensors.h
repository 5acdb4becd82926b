// Safetensors files: 8-byte little-endian header length, JSON header, raw little-endian tensors.
//
// The reader distrusts the file: length, JSON, dtype, shape, offsets, overlaps and holes are proven
// before anything is handed out; every failure is a quest::Error (kData) that names the file and
// the tensor. The writer publishes nothing until finish() has written and flushed everything.
//
//   SafetensorsReader in("model.safetensors");
//   const TensorView& w = in.tensor("lm_head.weight");     // throws if absent, lists near names
//   std::span<const float> values = w.as<float>();         // throws if the dtype is not F32
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/base/bfloat16.h"
#include "quest/base/mmap_file.h"

namespace quest {

enum class DType { kBool, kU8, kI8, kI16, kF16, kBF16, kI32, kU32, kF32, kI64, kU64, kF64 };

size_t dtype_size(DType dtype);                // bytes per element
std::string_view dtype_name(DType dtype);      // as in the file: "F32", "BF16", ...
DType dtype_from_name(std::string_view name);  // throws kData for a name that is none of the above

template <class T>
struct DTypeOf;  // DTypeOf<float>::value == DType::kF32; float, double, bfloat16 and (u)int8..64

// A tensor inside a mapped file (or any memory that outlives the view).
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;

  int64_t numel() const;  // 1 for a scalar (empty shape)
  // Elements without conversion; throws kData if the dtype differs from T.
  template <class T>
  std::span<const T> as() const;
  // Elements converted to float from F32, F64, F16, BF16 or any integer type.
  std::vector<float> to_float() const;

 private:
  void expect_dtype(DType wanted) const;
};

class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::filesystem::path& path);

  bool contains(std::string_view name) const;
  const TensorView& tensor(std::string_view name) const;
  // In the order of their bytes in the file.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MmapFile file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

// Writes one file. add() keeps only a view: the bytes must live until finish().
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(std::filesystem::path path) : path_(std::move(path)) {}

  void set_metadata(std::string key, std::string value) { metadata_[key] = std::move(value); }
  void add(std::string name, DType dtype, std::vector<int64_t> shape,
           std::span<const std::byte> bytes);
  template <class T>
  void add(std::string name, std::vector<int64_t> shape, std::span<const T> values) {
    add(std::move(name), DTypeOf<std::remove_const_t<T>>::value, std::move(shape),
        std::as_bytes(values));
  }
  // Writes the file in place and fsyncs it. Throws kIo (path, reason) and removes the partial file.
  void finish();

 private:
  struct Entry {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    std::span<const std::byte> bytes;
  };
  std::filesystem::path path_;
  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::kBool;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::kI8;
};
template <>
struct DTypeOf<int16_t> {
  static constexpr DType value = DType::kI16;
};
template <>
struct DTypeOf<bfloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<uint32_t> {
  static constexpr DType value = DType::kU32;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<uint64_t> {
  static constexpr DType value = DType::kU64;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};

template <class T>
std::span<const T> TensorView::as() const {
  expect_dtype(DTypeOf<T>::value);
  return {reinterpret_cast<const T*>(bytes.data()), static_cast<size_t>(numel())};
}

}  // namespace quest
