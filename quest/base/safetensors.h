// Safetensors files: 8-byte little-endian header length, JSON header, raw little-endian tensors.
// Format: https://github.com/huggingface/safetensors.
//
// The reader distrusts the file: length, JSON (strict UTF-8, no key twice), dtype, shape, offsets,
// overlaps, holes and bytes after the last tensor are proven before anything is handed out; every
// failure is a quest::Error (kData) that names the file and the tensor. A file that another program
// truncates while it is mapped is outside this promise (the system ends the process with SIGBUS).
//
// Alignment: the format lets a tensor begin at any byte. as<T>() hands out the mapped bytes
// themselves and throws kData if they are not aligned for T; to_vector<T>() and to_float() copy and
// always work. Files of SafetensorsWriter are always aligned.
//
//   SafetensorsReader in("model.safetensors");
//   const TensorView& w = in.tensor("lm_head.weight");     // throws if absent, lists near names
//   std::span<const float> values = w.as<float>();         // throws if the dtype is not F32
//
//   SafetensorsWriter out("out.safetensors");
//   out.add<float>("w", {2, 3}, values);
//   out.finish();
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "quest/base/bfloat16.h"
#include "quest/base/file_bytes.h"

namespace quest {

enum class DType { kBool, kU8, kI8, kI16, kF16, kBF16, kI32, kU32, kF32, kI64, kU64, kF64 };

size_t dtype_size(DType dtype);                // bytes per element
std::string_view dtype_name(DType dtype);      // as in the file: "F32", "BF16", ...
DType dtype_from_name(std::string_view name);  // throws kData for a name that is none of the above

template <class T>
struct DTypeOf;  // DTypeOf<float>::value == DType::kF32; float, double, bfloat16 and (u)int8..64

// A tensor inside the bytes of a file (or any memory that outlives the view).
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;

  int64_t numel() const;  // 1 for a scalar (empty shape)
  // Elements without conversion or copy; throws kData if the dtype differs from T or the bytes are
  // not aligned for T, and for bool if a byte is neither 0 nor 1.
  template <class T>
  std::span<const T> as() const;
  // The same as a copy, at any alignment.
  template <class T>
  std::vector<T> to_vector() const;
  // Elements converted to float from any dtype (bool: 0 or 1), at any alignment.
  std::vector<float> to_float() const;

 private:
  // dtype and the number of bytes; for bool also the values.
  void expect_elements(DType wanted) const;
  void expect_aligned(size_t alignment) const;
};

// Thread rules: const after construction; may be read from any number of threads. Views and spans
// live as long as the reader.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::filesystem::path& path,
                             FileAccess access = FileAccess::kMap);

  bool contains(std::string_view name) const;
  const TensorView& tensor(std::string_view name) const;
  // In the order of their bytes in the file.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }
  std::span<const std::byte> file_bytes() const { return file_.bytes(); }  // with the header

 private:
  FileBytes file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

// Writes one file. add() keeps only a view: the bytes must live until finish(). In the file,
// tensors are ordered by falling element size, then as added, and the data begins at a multiple of
// 64: each tensor is aligned to its element size.
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(std::filesystem::path path) : path_(std::move(path)) {}

  void set_metadata(std::string key, std::string value) { metadata_[key] = std::move(value); }
  // Throws kUsage for a name that is taken, reserved ("__metadata__") or not UTF-8, a negative or
  // overflowing shape, or bytes that do not fit the shape.
  void add(std::string name, DType dtype, std::vector<int64_t> shape,
           std::span<const std::byte> bytes);
  template <class T>
  void add(std::string name, std::vector<int64_t> shape, std::span<const T> values) {
    add(std::move(name), DTypeOf<std::remove_const_t<T>>::value, std::move(shape),
        std::as_bytes(values));
  }
  // Writes a temporary sibling, fsyncs it and gives it its name. Throws kIo (path, reason), and
  // then removes the partial file and leaves what stood under the name.
  void finish();

 private:
  struct Entry {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    std::span<const std::byte> bytes;
  };
  std::string header(const std::vector<Entry>& ordered) const;

  std::filesystem::path path_;
  std::vector<Entry> entries_;
  std::set<std::string, std::less<>> names_;
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
  expect_elements(DTypeOf<T>::value);
  if (bytes.empty()) return {};
  expect_aligned(alignof(T));
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

template <class T>
std::vector<T> TensorView::to_vector() const {
  static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no bytes: use as<bool>()");
  expect_elements(DTypeOf<T>::value);
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace quest
