#include "quest/ops/tensor_file.h"

#include <cstring>

#include <ATen/ops/equal.h>

#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

std::span<const std::byte> bytes_of(const at::Tensor& t) {
  return {static_cast<const std::byte*>(t.data_ptr()), t.nbytes()};
}

const at::ScalarType kTypes[] = {at::kBool, at::kByte,  at::kChar, at::kShort,  at::kHalf,
                                 at::kInt,  at::kFloat, at::kLong, at::kDouble, at::kBFloat16};

TEST(TensorFile, RoundTripOfEveryType) {
  const testing::TemporaryFolder folder;
  SafetensorsWriter out(folder / "t.safetensors");
  std::vector<at::Tensor> tensors;
  for (const at::ScalarType type : kTypes) {
    // An odd number of elements: what follows in the file begins unaligned for its reader.
    tensors.push_back((testing::normal({3, 1, 5}, 1) * 50).to(type));
    out.add(at::toString(type), dtype_of(type), tensors.back().sizes().vec(),
            bytes_of(tensors.back()));
  }
  const at::Tensor empty = at::empty({0, 4}, at::kFloat);
  out.add("empty", DType::kF32, {0, 4}, bytes_of(empty));
  const at::Tensor scalar = testing::normal({}, 2, at::kFloat);
  out.add("scalar", DType::kF32, {}, bytes_of(scalar));
  out.finish();

  std::vector<at::Tensor> read;
  {
    const SafetensorsReader in(folder / "t.safetensors");
    for (const at::ScalarType type : kTypes) {
      EXPECT_EQ(scalar_type_of(dtype_of(type)), type);
      read.push_back(to_tensor(in.tensor(at::toString(type))));
    }
    EXPECT_EQ(to_tensor(in.tensor("empty")).sizes(), (std::vector<int64_t>{0, 4}));
    EXPECT_TRUE(at::equal(to_tensor(in.tensor("scalar")), scalar));
  }
  // The file is closed by now: the tensors have their own memory.
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(read[i].scalar_type(), tensors[i].scalar_type());
    EXPECT_TRUE(at::equal(read[i], tensors[i])) << at::toString(tensors[i].scalar_type());
  }
}

TEST(TensorFile, RefusesTypesWithoutACounterpart) {
  EXPECT_QUEST_ERROR(scalar_type_of(DType::kU64), ErrorKind::kData, "U64");
  EXPECT_QUEST_ERROR(scalar_type_of(DType::kU32), ErrorKind::kData, "U32");
  EXPECT_QUEST_ERROR(dtype_of(at::kComplexFloat), ErrorKind::kUsage, "ComplexFloat");
  const std::vector<uint32_t> values = {1, 2};
  EXPECT_QUEST_ERROR(
      to_tensor({"w", DType::kU32, {2}, std::as_bytes(std::span<const uint32_t>(values))}),
      ErrorKind::kData, "U32");
}

}  // namespace
}  // namespace quest::ops
