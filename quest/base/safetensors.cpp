#include "quest/base/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <optional>

#include "quest/base/atomic_file.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"

namespace quest {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

namespace {

constexpr const char* kMetadataKey = "__metadata__";
constexpr uint64_t kMaxHeaderSize = 100'000'000;  // the limit of the format's own library
constexpr size_t kDataAlignment = 64;

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  size_t size;
};
constexpr std::array kDTypes = {
    DTypeInfo{DType::kBool, "BOOL", 1}, DTypeInfo{DType::kU8, "U8", 1},
    DTypeInfo{DType::kI8, "I8", 1},     DTypeInfo{DType::kI16, "I16", 2},
    DTypeInfo{DType::kF16, "F16", 2},   DTypeInfo{DType::kBF16, "BF16", 2},
    DTypeInfo{DType::kI32, "I32", 4},   DTypeInfo{DType::kU32, "U32", 4},
    DTypeInfo{DType::kF32, "F32", 4},   DTypeInfo{DType::kI64, "I64", 8},
    DTypeInfo{DType::kU64, "U64", 8},   DTypeInfo{DType::kF64, "F64", 8},
};

const DTypeInfo& info_of(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

// A name from a file, quoted and in plain ASCII, so that an error message stays one readable line.
std::string printable(std::string_view text) {
  std::string result = Json(std::string(text)).dump(-1, ' ', true, Json::error_handler_t::replace);
  if (result.size() > 200) result = result.substr(0, 197) + "...";
  return result;
}

// Bytes of a tensor; nullopt if a size is negative or the product leaves int64.
std::optional<int64_t> byte_count(DType dtype, const std::vector<int64_t>& shape) {
  int64_t count = static_cast<int64_t>(dtype_size(dtype));
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(count, size, &count)) return std::nullopt;
  }
  return count;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t fraction = half & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide_exponent = exponent == 31 ? 255 : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (wide_exponent << 23) | (fraction << 13));
}

template <class T, class Convert>
std::vector<float> convert_elements(std::span<const std::byte> bytes, Convert convert) {
  std::vector<float> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T element;
    std::memcpy(&element, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = convert(element);
  }
  return values;
}

template <class T>
std::vector<float> cast_elements(std::span<const std::byte> bytes) {
  return convert_elements<T>(bytes, [](T element) { return static_cast<float>(element); });
}

// One entry of the header; `data` is what follows the header.
TensorView parse_entry(const std::string& name, const Json& entry, std::span<const std::byte> data,
                       const std::string& where) {
  QUEST_CHECK(entry.is_object() && entry.size() == 3, ErrorKind::kData,
              "{}: expected an object of dtype, shape and data_offsets", where);
  TensorView view;
  view.name = name;
  const auto dtype = json_get<std::string>(entry, "dtype", where);
  const auto* known =
      std::find_if(kDTypes.begin(), kDTypes.end(), [&](const auto& d) { return d.name == dtype; });
  QUEST_CHECK(known != kDTypes.end(), ErrorKind::kData, "{}: dtype {} is not supported", where,
              printable(dtype));
  view.dtype = known->dtype;
  view.shape = json_get<std::vector<int64_t>>(entry, "shape", where);
  const auto size = byte_count(view.dtype, view.shape);
  QUEST_CHECK(size.has_value(), ErrorKind::kData, "{}: the shape {} is negative or too large",
              where, shape_text(view.shape));
  const auto offsets = json_get<std::vector<int64_t>>(entry, "data_offsets", where);
  QUEST_CHECK(offsets.size() == 2, ErrorKind::kData, "{}: data_offsets has {} numbers, expected 2",
              where, offsets.size());
  const int64_t begin = offsets[0], end = offsets[1];
  QUEST_CHECK(
      begin >= 0 && begin <= end && static_cast<uint64_t>(end) <= data.size(), ErrorKind::kData,
      "{}: data_offsets [{}, {}] lie outside the {} bytes of data: the file is damaged or was "
      "cut short",
      where, begin, end, data.size());
  QUEST_CHECK(end - begin == *size, ErrorKind::kData,
              "{}: {} of shape {} takes {} bytes, but data_offsets hold {}", where, dtype,
              shape_text(view.shape), *size, end - begin);
  view.bytes = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(*size));
  return view;
}

// Names of the parts of a model share their beginnings, so the nearest are those that share the
// longest.
std::string near_names(std::string_view wanted, const std::vector<TensorView>& tensors) {
  const auto shared = [&](const std::string& name) {
    const auto limit = std::min(name.size(), wanted.size());
    return std::mismatch(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(limit),
                         wanted.begin())
               .first -
           name.begin();
  };
  std::vector<const TensorView*> order;
  for (const TensorView& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [&](const TensorView* a, const TensorView* b) {
    return shared(a->name) > shared(b->name);
  });
  std::string list;
  for (size_t i = 0; i < std::min<size_t>(order.size(), 5); ++i) {
    list += (i == 0 ? "" : ", ") + printable(order[i]->name);
  }
  return list.empty() ? "no tensors" : list;
}

}  // namespace

size_t dtype_size(DType dtype) { return info_of(dtype).size; }
std::string_view dtype_name(DType dtype) { return info_of(dtype).name; }

DType dtype_from_name(std::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
  }
  QUEST_THROW(ErrorKind::kData, "dtype {} is not supported", printable(name));
}

int64_t TensorView::numel() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

void TensorView::expect_elements(DType wanted) const {
  QUEST_CHECK(dtype == wanted, ErrorKind::kData, "tensor {} is {}, expected {}", printable(name),
              dtype_name(dtype), dtype_name(wanted));
  QUEST_CHECK(byte_count(dtype, shape) == static_cast<int64_t>(bytes.size()), ErrorKind::kData,
              "tensor {} of shape {} has {} bytes", printable(name), shape_text(shape),
              bytes.size());
  if (wanted != DType::kBool) return;
  const bool proper =
      std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b <= std::byte{1}; });
  QUEST_CHECK(proper, ErrorKind::kData, "tensor {} is BOOL but holds bytes other than 0 and 1",
              printable(name));
}

void TensorView::expect_aligned(size_t alignment) const {
  QUEST_CHECK(reinterpret_cast<uintptr_t>(bytes.data()) % alignment == 0, ErrorKind::kData,
              "tensor {} is not aligned to its {}-byte elements in the file: rewrite the file with "
              "aligned tensors, or copy the elements",
              printable(name), alignment);
}

std::vector<float> TensorView::to_float() const {
  QUEST_CHECK(byte_count(dtype, shape) == static_cast<int64_t>(bytes.size()), ErrorKind::kData,
              "tensor {} of shape {} has {} bytes", printable(name), shape_text(shape),
              bytes.size());
  switch (dtype) {
    case DType::kBool:
      return convert_elements<uint8_t>(bytes, [](uint8_t b) { return b != 0 ? 1.0f : 0.0f; });
    case DType::kU8:
      return cast_elements<uint8_t>(bytes);
    case DType::kI8:
      return cast_elements<int8_t>(bytes);
    case DType::kI16:
      return cast_elements<int16_t>(bytes);
    case DType::kF16:
      return convert_elements<uint16_t>(bytes, half_to_float);
    case DType::kBF16:
      return cast_elements<bfloat16>(bytes);
    case DType::kI32:
      return cast_elements<int32_t>(bytes);
    case DType::kU32:
      return cast_elements<uint32_t>(bytes);
    case DType::kF32:
      return cast_elements<float>(bytes);
    case DType::kI64:
      return cast_elements<int64_t>(bytes);
    case DType::kU64:
      return cast_elements<uint64_t>(bytes);
    case DType::kF64:
      return cast_elements<double>(bytes);
  }
  QUEST_ASSERT(false, "dtype {}", static_cast<int>(dtype));
  return {};
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path, FileAccess access)
    : file_(path, access) {
  const std::span<const std::byte> bytes = file_.bytes();
  const std::string file = path.string();
  QUEST_CHECK(bytes.size() >= 8, ErrorKind::kData,
              "{} is not a safetensors file: it has {} bytes, the header's length alone takes 8",
              file, bytes.size());
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  QUEST_CHECK(
      header_size <= kMaxHeaderSize && header_size <= bytes.size() - 8, ErrorKind::kData,
      "{} is not a safetensors file or was cut short: the header's length is {}, the file has {} "
      "bytes",
      file, header_size, bytes.size());
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, header_size);
  QUEST_CHECK(header.substr(0, 1) == "{", ErrorKind::kData,
              "{} is not a safetensors file: its header does not begin with '{{'", file);
  const Json document = parse_json(header, file + ": header");
  const std::span<const std::byte> data = bytes.subspan(8 + header_size);

  tensors_.reserve(document.size());
  for (const auto& [name, entry] : document.items()) {
    if (name != kMetadataKey) {
      tensors_.push_back(parse_entry(name, entry, data, file + ": tensor " + printable(name)));
      continue;
    }
    QUEST_CHECK(entry.is_object(), ErrorKind::kData, "{}: __metadata__ is not an object", file);
    for (const auto& [key, value] : entry.items()) {
      metadata_[key] = json_get<std::string>(entry, key, file + ": __metadata__");
    }
  }

  // Sorted by where they begin (an empty one before its neighbour), tensors must follow each other
  // without overlap or hole from the first byte of the data to the last.
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorView& a, const TensorView& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  const std::byte* position = data.data();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorView& tensor = tensors_[i];
    QUEST_CHECK(
        tensor.bytes.data() == position, ErrorKind::kData,
        "{}: tensor {} begins at byte {} of the data, expected {}: tensors overlap or leave a "
        "hole",
        file, printable(tensor.name), tensor.bytes.data() - data.data(), position - data.data());
    position += tensor.bytes.size();
    index_.emplace(tensor.name, i);
  }
  QUEST_CHECK(position == data.data() + data.size(), ErrorKind::kData,
              "{}: {} bytes follow the last tensor", file, data.data() + data.size() - position);
}

bool SafetensorsReader::contains(std::string_view name) const {
  return index_.find(name) != index_.end();
}

const TensorView& SafetensorsReader::tensor(std::string_view name) const {
  const auto found = index_.find(name);
  QUEST_CHECK(found != index_.end(), ErrorKind::kData,
              "{} has no tensor {}; the nearest of its {} are {}", path().string(), printable(name),
              tensors_.size(), near_names(name, tensors_));
  return tensors_[found->second];
}

void SafetensorsWriter::add(std::string name, DType dtype, std::vector<int64_t> shape,
                            std::span<const std::byte> bytes) {
  QUEST_CHECK(name != kMetadataKey, ErrorKind::kUsage,
              "a tensor cannot be named {}: it is reserved", kMetadataKey);
  const auto size = byte_count(dtype, shape);
  QUEST_CHECK(size.has_value(), ErrorKind::kUsage,
              "tensor {}: the shape {} is negative or too large", printable(name),
              shape_text(shape));
  QUEST_CHECK(*size == static_cast<int64_t>(bytes.size()), ErrorKind::kUsage,
              "tensor {}: {} of shape {} takes {} bytes, {} were given", printable(name),
              dtype_name(dtype), shape_text(shape), *size, bytes.size());
  QUEST_CHECK(names_.insert(name).second, ErrorKind::kUsage, "tensor {} was added twice",
              printable(name));
  try {
    (void)Json(name).dump();
  } catch (const Json::exception&) {
    QUEST_THROW(ErrorKind::kUsage, "the tensor name {} is not UTF-8", printable(name));
  }
  entries_.push_back({std::move(name), dtype, std::move(shape), bytes});
}

std::string SafetensorsWriter::header(const std::vector<Entry>& ordered) const {
  // In the order of the data, as other readers expect; Json objects would sort by name.
  nlohmann::ordered_json document = nlohmann::ordered_json::object();
  if (!metadata_.empty()) document[kMetadataKey] = metadata_;
  size_t offset = 0;
  for (const Entry& entry : ordered) {
    document[entry.name] = {{"dtype", dtype_name(entry.dtype)},
                            {"shape", entry.shape},
                            {"data_offsets", {offset, offset + entry.bytes.size()}}};
    offset += entry.bytes.size();
  }
  std::string text;
  try {
    text = document.dump();
  } catch (const nlohmann::ordered_json::exception& error) {
    QUEST_THROW(ErrorKind::kUsage, "{}: the metadata is not UTF-8: {}", path_.string(),
                error.what());
  }
  text.append((kDataAlignment - (8 + text.size()) % kDataAlignment) % kDataAlignment, ' ');
  QUEST_CHECK(text.size() <= kMaxHeaderSize, ErrorKind::kUsage,
              "{}: the header takes {} bytes, the format allows {}", path_.string(), text.size(),
              kMaxHeaderSize);
  return text;
}

void SafetensorsWriter::finish() {
  std::vector<Entry> ordered = entries_;
  std::stable_sort(ordered.begin(), ordered.end(), [](const Entry& a, const Entry& b) {
    return dtype_size(a.dtype) > dtype_size(b.dtype);
  });
  const std::string text = header(ordered);
  const uint64_t header_size = text.size();
  AtomicFile file(path_);
  file.write(std::as_bytes(std::span(&header_size, 1)));
  file.write(text);
  for (const Entry& entry : ordered) file.write(entry.bytes);
  file.publish();
}

}  // namespace quest
