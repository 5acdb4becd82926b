#include "quest/base/safetensors.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

using testing::TemporaryFolder;

std::string file_of(std::string_view header, std::string_view data) {
  std::string file(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(file.data(), &size, 8);
  return file + std::string(header) + std::string(data);
}

std::string f32_entry(std::string_view name, std::string_view shape, int64_t begin, int64_t end) {
  return fmt::format(R"("{}":{{"dtype":"F32","shape":{},"data_offsets":[{},{}]}})", name, shape,
                     begin, end);
}

std::string header_of(const std::string& entries) { return fmt::format("{{{}}}", entries); }

// Everything a caller may do with a file that was accepted; sanitizers watch.
void use_all(const SafetensorsReader& in) {
  for (const TensorView& view : in.tensors()) {
    ASSERT_EQ(static_cast<int64_t>(view.bytes.size()),
              view.numel() * static_cast<int64_t>(dtype_size(view.dtype)));
    ASSERT_EQ(view.to_float().size(), static_cast<size_t>(view.numel()));
    ASSERT_TRUE(in.contains(view.name));
    ASSERT_EQ(&in.tensor(view.name), &view);
  }
}

void expect_refused(const TemporaryFolder& folder, std::string_view content, const char* reason) {
  const auto path = folder.write("x.safetensors", content);
  EXPECT_QUEST_ERROR(SafetensorsReader{path}, ErrorKind::kData, reason);
  EXPECT_QUEST_ERROR(SafetensorsReader{path}, ErrorKind::kData, "x.safetensors");
}

template <class T>
void expect_round_trip(const TemporaryFolder& folder, std::vector<T> values) {
  const auto path = folder / "round_trip.safetensors";
  SafetensorsWriter out(path);
  out.add<T>("t", {static_cast<int64_t>(values.size())}, std::span<const T>(values));
  out.finish();
  const SafetensorsReader in(path);
  const TensorView& view = in.tensor("t");
  EXPECT_EQ(view.dtype, DTypeOf<T>::value);
  ASSERT_EQ(view.as<T>().size(), values.size());
  // Bit by bit: NaN and -0 count too.
  const auto expect_same_bytes = [&](std::span<const T> found) {
    const auto a = std::as_bytes(found), b = std::as_bytes(std::span<const T>(values));
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end()));
  };
  expect_same_bytes(view.as<T>());
  expect_same_bytes(view.to_vector<T>());
  const std::vector<float> floats = view.to_float();
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(floats[i], static_cast<float>(values[i]));
}

TEST(Safetensors, RoundTripsEveryTypeWithExtremes) {
  const TemporaryFolder folder;
  expect_round_trip<float>(folder, {1.5f, -0.0f, std::numeric_limits<float>::denorm_min(),
                                    std::numeric_limits<float>::infinity()});
  expect_round_trip<double>(folder, {0.1, -1e300, 0.0});
  expect_round_trip<bfloat16>(folder, {bfloat16(1.0f), bfloat16(-3.1415f)});
  expect_round_trip<uint8_t>(folder, {0, 255, 7});
  expect_round_trip<int8_t>(folder, {-128, 127, 0});
  expect_round_trip<int16_t>(folder, {-32768, 32767});
  expect_round_trip<int32_t>(folder, {std::numeric_limits<int32_t>::min(), 5});
  expect_round_trip<uint32_t>(folder, {std::numeric_limits<uint32_t>::max()});
  expect_round_trip<int64_t>(folder, {std::numeric_limits<int64_t>::min(), 3});
  expect_round_trip<uint64_t>(folder, {std::numeric_limits<uint64_t>::max()});
  expect_round_trip<float>(folder, {});
}

TEST(Safetensors, HalfPrecisionBecomesTheExactFloat) {
  // 0, -0, smallest subnormal, largest subnormal, 1, -2, 65504, infinity.
  const std::vector<uint16_t> halves = {0x0000, 0x8000, 0x0001, 0x03ff,
                                        0x3c00, 0xc000, 0x7bff, 0x7c00};
  TensorView view{
      .name = "h", .dtype = DType::kF16, .shape = {8}, .bytes = std::as_bytes(std::span(halves))};
  const std::vector<float> expected = {
      0.0f, -0.0f, 0x1p-24f, 1023 * 0x1p-24f,
      1.0f, -2.0f, 65504.0f, std::numeric_limits<float>::infinity()};
  const std::vector<float> found = view.to_float();
  EXPECT_EQ(found, expected);
  EXPECT_TRUE(std::signbit(found[1]));
  const std::vector<uint16_t> nan = {0x7e00};
  view.shape = {1};
  view.bytes = std::as_bytes(std::span(nan));
  EXPECT_TRUE(std::isnan(view.to_float()[0]));
}

TEST(Safetensors, WriterAlignsDataAndTensors) {
  const TemporaryFolder folder;
  const auto path = folder / "aligned.safetensors";
  const std::vector<uint8_t> bytes = {1, 2, 3};
  const std::vector<double> doubles = {1, 2, 3};
  const std::vector<float> floats = {4, 5, 6};
  SafetensorsWriter out(path);
  out.add<uint8_t>("a.bytes", {3}, bytes);
  out.add<float>("b.floats", {3, 1}, floats);
  out.add<double>("c.doubles", {3}, doubles);
  out.set_metadata("format", "pt");
  out.set_metadata("unicode", "\xc3\xa9\n");
  out.finish();

  const SafetensorsReader in(path);
  ASSERT_EQ(in.tensors().size(), 3u);
  EXPECT_EQ(in.tensors()[0].name, "c.doubles");
  EXPECT_EQ(in.tensors()[1].name, "b.floats");
  EXPECT_EQ(in.tensors()[2].name, "a.bytes");
  // The map begins at a page, so the address tells the offset modulo 64.
  EXPECT_EQ(reinterpret_cast<uintptr_t>(in.tensors()[0].bytes.data()) % 64, 0u);
  EXPECT_EQ(in.tensor("b.floats").as<float>()[2], 6.0f);
  EXPECT_EQ(in.tensor("b.floats").shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(in.metadata().at("format"), "pt");
  EXPECT_EQ(in.metadata().at("unicode"), "\xc3\xa9\n");
}

TEST(Safetensors, ZeroSizeAndScalarTensors) {
  const TemporaryFolder folder;
  const auto path = folder / "empty.safetensors";
  const float one = 1;
  SafetensorsWriter out(path);
  out.add("none", DType::kF32, {0, 7}, {});
  out.add<float>("scalar", {}, std::span(&one, 1));
  out.add("none_too", DType::kI64, {3, 0}, {});
  out.finish();
  const SafetensorsReader in(path);
  EXPECT_EQ(in.tensor("none").as<float>().size(), 0u);
  EXPECT_EQ(in.tensor("none_too").numel(), 0);
  EXPECT_EQ(in.tensor("scalar").numel(), 1);
  EXPECT_EQ(in.tensor("scalar").as<float>()[0], 1.0f);

  SafetensorsWriter nothing(path);
  nothing.finish();
  EXPECT_TRUE(SafetensorsReader(path).tensors().empty());
}

TEST(Safetensors, MisalignedTensorsAreReadByCopyOnly) {
  const TemporaryFolder folder;
  std::string data = "x";
  const float value = 2.5f;
  data.append(reinterpret_cast<const char*>(&value), 4);
  std::string header = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)" +
                       f32_entry("f", "[1]", 1, 5) + "}";
  header.append((64 - (8 + header.size()) % 64) % 64, ' ');
  const SafetensorsReader in(folder.write("m.safetensors", file_of(header, data)));
  EXPECT_QUEST_ERROR(in.tensor("f").as<float>(), ErrorKind::kData, "aligned");
  EXPECT_EQ(in.tensor("f").to_float(), std::vector<float>{2.5f});
  EXPECT_EQ(in.tensor("f").to_vector<float>(), std::vector<float>{2.5f});
}

TEST(Safetensors, WrongTypeAndMissingNameSayWhatThereIs) {
  const TemporaryFolder folder;
  const SafetensorsReader in(
      folder.write("x.safetensors",
                   file_of(header_of(f32_entry("model.layers.0.weight", "[1]", 0, 4)), "abcd")));
  EXPECT_QUEST_ERROR(in.tensor("model.layers.0.weight").as<int32_t>(), ErrorKind::kData,
                     "is F32, expected I32");
  EXPECT_QUEST_ERROR(in.tensor("model.layers.1.weight"), ErrorKind::kData, "model.layers.0.weight");
  EXPECT_FALSE(in.contains("model.layers.1.weight"));
}

TEST(Safetensors, BoolHoldsOnlyZeroAndOne) {
  const TemporaryFolder folder;
  const std::string header = R"({"b":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})";
  const SafetensorsReader good(folder.write("a", file_of(header, std::string("\1\0", 2))));
  EXPECT_TRUE(good.tensor("b").as<bool>()[0]);
  const SafetensorsReader bad(folder.write("b", file_of(header, "\1\2")));
  EXPECT_QUEST_ERROR(bad.tensor("b").as<bool>(), ErrorKind::kData, "0 and 1");
  EXPECT_EQ(bad.tensor("b").to_float(), (std::vector<float>{1, 1}));
}

TEST(Safetensors, RefusesWhatItCannotProve) {
  const TemporaryFolder folder;
  const std::string eight = "12345678";
  expect_refused(folder, "", "0 bytes");
  expect_refused(folder, "1234567", "7 bytes");
  expect_refused(folder, std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), "header's length");
  expect_refused(folder, file_of("[]", ""), "begin with");
  expect_refused(folder, file_of("", ""), "begin with");
  expect_refused(folder, file_of(" {}", ""), "begin with");
  expect_refused(folder, file_of("{", ""), "not valid JSON");
  expect_refused(folder, file_of("{} x", ""), "not valid JSON");
  expect_refused(folder, file_of(std::string_view("{}\0{", 4), ""), "NUL");
  expect_refused(folder, file_of("{\"\xff\":1}", ""), "not valid JSON");
  expect_refused(folder, file_of(std::string(100000, '{'), ""), "not valid JSON");
  std::string deep = R"({"a":)";
  deep += std::string(100000, '[') + std::string(100000, ']') + "}";
  expect_refused(folder, file_of(deep, ""), "deep");
  expect_refused(folder, file_of("{}", "x"), "1 bytes follow");
  expect_refused(
      folder,
      file_of(header_of(f32_entry("a", "[1]", 0, 4) + "," + f32_entry("a", "[1]", 4, 8)), eight),
      "twice");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[-1]", 0, 4)), eight), "negative");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[-1,-1]", 0, 4)), eight), "negative");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[4611686018427387904,4]", 0, 0)), ""),
                 "too large");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[18446744073709551615]", 0, 4)), eight),
                 "shape");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[1.0]", 0, 4)), "1234"), "shape");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[true]", 0, 4)), "1234"), "shape");
  expect_refused(folder, file_of(header_of(f32_entry("a", "4", 0, 4)), "1234"), "shape");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[1e400]", 0, 4)), "1234"), "JSON");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[1]", 0, 8)), eight),
                 "data_offsets hold 8");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[2]", 0, 8)), "1234"), "outside");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[1]", 8, 4)), eight), "outside");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[1]", -4, 0)), eight), "outside");
  expect_refused(
      folder,
      file_of(header_of(f32_entry("a", "[1]", 0, 4) + "," + f32_entry("b", "[1]", 2, 6)), "123456"),
      "overlap");
  expect_refused(
      folder,
      file_of(header_of(f32_entry("a", "[1]", 0, 4) + "," + f32_entry("b", "[1]", 0, 4)), "1234"),
      "overlap");
  expect_refused(folder, file_of(header_of(f32_entry("a", "[1]", 4, 8)), eight), "hole");
  expect_refused(
      folder,
      file_of(header_of(f32_entry("a", "[1]", 0, 4) + "," + f32_entry("z", "[0]", 2, 2)), "1234"),
      "overlap");
  expect_refused(folder,
                 file_of(R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", "1"),
                 "F8_E4M3");
  expect_refused(folder, file_of(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,1]}})", "1"),
                 "dtype");
  expect_refused(folder, file_of(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", "1"),
                 "expected an object");
  expect_refused(folder, file_of(R"({"a":7})", ""), "expected an object");
  expect_refused(folder, file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", "1"),
                 "3 numbers");
  expect_refused(folder, file_of(R"({"__metadata__":{"a":1}})", ""), "__metadata__");
  expect_refused(folder, file_of(R"({"__metadata__":[]})", ""), "__metadata__");
  EXPECT_QUEST_ERROR(SafetensorsReader{folder / "absent"}, ErrorKind::kIo, "No such file");
  EXPECT_QUEST_ERROR(SafetensorsReader{folder.path()}, ErrorKind::kIo, "folder");
}

std::string small_file(const TemporaryFolder& folder) {
  const auto path = folder / "small.safetensors";
  const std::vector<float> floats = {1, 2, 3};
  const std::vector<uint8_t> bytes = {1, 2};
  SafetensorsWriter out(path);
  out.add<float>("f", {3}, floats);
  out.add<uint8_t>("b", {2}, bytes);
  out.set_metadata("k", "v");
  out.finish();
  return read_file(path);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const TemporaryFolder folder;
  const std::string whole = small_file(folder);
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto path = folder.write("cut.safetensors", whole.substr(0, size));
    EXPECT_QUEST_ERROR(SafetensorsReader{path}, ErrorKind::kData, "cut.safetensors");
  }
}

TEST(Safetensors, EveryFlippedHeaderBitIsRefusedOrHarmless) {
  const TemporaryFolder folder;
  const std::string whole = small_file(folder);
  uint64_t header_size = 0;
  std::memcpy(&header_size, whole.data(), 8);
  int refused = 0;
  for (size_t bit = 0; bit < 8 * (8 + header_size); ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const auto path = folder.write("flip.safetensors", flipped);
    try {
      const SafetensorsReader in(path);
      use_all(in);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData) << error.what();
      ++refused;
    }
  }
  // Only bits of names, of the metadata and of the padding can be harmless.
  EXPECT_GT(refused, static_cast<int>(4 * header_size));
}

TEST(Safetensors, WriterRefusesBadTensors) {
  const TemporaryFolder folder;
  SafetensorsWriter out(folder / "x");
  const std::vector<float> values(4);
  out.add<float>("a", {2, 2}, values);
  EXPECT_QUEST_ERROR(out.add<float>("a", {4}, values), ErrorKind::kUsage, "twice");
  EXPECT_QUEST_ERROR(out.add<float>("b", {5}, values), ErrorKind::kUsage, "20 bytes");
  EXPECT_QUEST_ERROR(out.add<float>("b", {-4, -1}, values), ErrorKind::kUsage, "negative");
  EXPECT_QUEST_ERROR(out.add<float>("__metadata__", {4}, values), ErrorKind::kUsage, "reserved");
  EXPECT_QUEST_ERROR(out.add<float>("\xff", {4}, values), ErrorKind::kUsage, "UTF-8");
  out.set_metadata("k", "\xff");
  EXPECT_QUEST_ERROR(out.finish(), ErrorKind::kUsage, "UTF-8");
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

TEST(Safetensors, WriterThatCannotWriteSaysWhere) {
  const std::vector<float> values(4);
  SafetensorsWriter out("/no/such/folder/x.safetensors");
  out.add<float>("a", {4}, values);
  EXPECT_QUEST_ERROR(out.finish(), ErrorKind::kIo, "/no/such/folder");
}

TEST(Safetensors, ReadsTheGoldenFiles) {
  const std::filesystem::path golden = std::filesystem::path(QUEST_SOURCE_DIR) / "tests/golden";
  const SafetensorsReader in(golden / "quantizers.safetensors");
  EXPECT_GT(in.tensors().size(), 20u);
  EXPECT_EQ(in.tensor("x").shape.size(), 2u);
  use_all(in);
}

TEST(Safetensors, NamesOfTypesAreInverse) {
  for (const char* name :
       {"BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "U32", "F32", "I64", "U64", "F64"}) {
    EXPECT_EQ(dtype_name(dtype_from_name(name)), name);
  }
  EXPECT_EQ(dtype_size(DType::kBF16), 2u);
  EXPECT_QUEST_ERROR(dtype_from_name("F4"), ErrorKind::kData, "F4");
}

}  // namespace
}  // namespace quest
