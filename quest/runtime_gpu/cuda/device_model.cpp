#include "quest/runtime_gpu/cuda/device_model.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/cuda/gemm_lowbit.h"
#include "quest/kernels/cuda/packed_rule.h"
#include "quest/kernels/lane_order.h"
#include "quest/ops/gpu.h"
#include "quest/runtime/table_view.h"
#include "quest/runtime_gpu/cuda/tensors.h"

namespace quest::runtime_gpu {
namespace {

namespace gpu = kernels::cuda;
using kernels::LaneOrder;

// Code tiles in lane order on the device.
at::Tensor upload_lanes(const CodeTiles& tiles, std::span<const uint8_t> bytes,
                        LaneOrder order = LaneOrder::kRows) {
  std::vector<uint8_t> lanes(static_cast<size_t>(kernels::lane_bytes(tiles)));
  at::parallel_for(0, tiles.row_tiles(), 4, [&](int64_t begin, int64_t end) {
    kernels::to_lanes(tiles, bytes.data(), lanes.data(), order, begin, end);
  });
  return to_device(lanes.data(), static_cast<int64_t>(lanes.size()), at::kByte);
}

// Whether int8 tensor cores multiply these numbers exactly: both sides are their codes.
bool tensor_cores_multiply(const QuantSpec& weight, const QuantSpec& activation, int64_t n,
                           int64_t k) {
  if (!gpu::unpack_numbers_supports(weight) || !gpu::gemm_lowbit_supports(n, k)) return false;
  const CodeFormat a = code_format(activation), w = code_format(weight);
  return a.is_integer && a.multiplier == 1 && a.offset == 0 &&
         k * a.max_number * w.max_number < int64_t{1} << 31;
}

// The most rows that go to the product of packed weights (packed_gemm.h, which supports them) where
// int8 weights are at hand too: kMaxPackedRows for products of bits, which have nothing to unpack,
// else fewer. A 7B's four products with their quantizers, in us, packed weights to int8 ones:
//   W1A1, H100  59 to 114 with 17 rows, 80 to 116 with 32, 130 to 113 with 64
//   W4A4, H100  75 with 16 rows, 104 to 117 with 32, 153 to 113 with 48, 207 to 113 with 64
int64_t most_rows_beside_int8(const QuantSpec& weight, const QuantSpec& activation, int64_t k) {
  constexpr int64_t kMostUnpacked = 32;
  const bool of_bits = gpu::product_rule(weight, activation, 1, k).kind == gpu::kPackedOneBit;
  return of_bits ? gpu::kMaxPackedRows : kMostUnpacked;
}

}  // namespace

at::Tensor to_device(const void* bytes, int64_t count, at::ScalarType type) {
  return at::from_blob(const_cast<void*>(bytes), {count}, at::TensorOptions(type)).to(at::kCUDA);
}

DeviceLinear::DeviceLinear(std::string name, const PackedTensor& tensor,
                           const QuantSpec& activation, const LinearSettings& settings)
    : name_(std::move(name)), activation_(activation), exact_(settings.exact) {
  input_ = activation;
  if (!activation.is_quantized()) input_.hadamard = tensor.spec.hadamard;
  upload(tensor);
  choose(settings, activation.is_quantized() && tensor.spec.is_quantized());
}

void DeviceLinear::upload(const PackedTensor& tensor) {
  weight_.spec = tensor.spec;
  weight_.n = tensor.n;
  weight_.k = tensor.k;
  if (!tensor.spec.is_quantized()) {
    values_ = to_device(tensor.weight.data(), tensor.n * tensor.k, at::kBFloat16)
                  .view({tensor.n, tensor.k});
    if (exact_) values_ = values_.to(at::kFloat);
    return;
  }
  lanes_ = upload_lanes(tensor.tiles, tensor.codes);
  units_ = to_device(tensor.units.data(), tensor.n, at::kFloat);
  weight_.lanes = lanes_.data_ptr();
  weight_.units = pointer<float>(units_);
  if (!tensor.pairs.empty()) {
    pairs_ = upload_lanes(sparse_tiles(tensor.n, tensor.k).pairs, tensor.pairs);
    weight_.pairs = pairs_.data_ptr();
  }
}

void DeviceLinear::choose(const LinearSettings& settings, bool has_codes) {
  const gpu::Stream stream = ops::current_stream();
  if (!weight_.spec.is_quantized()) {
    few_ = many_ = {Kind::kValues, true};
    return;
  }
  const bool packed = has_codes && gpu::packed_gemm_supports(weight_.spec, activation_, k());
  const bool cores = has_codes && tensor_cores_multiply(weight_.spec, activation_, n(), k());
  if (packed) {
    few_ = {Kind::kPacked, false};
    many_ = cores    ? Product{Kind::kNumbers, settings.unpacked}
            : exact_ ? Product{Kind::kPacked, false}
                     : Product{Kind::kValues, false};
    if (gpu::needs_number_sums(weight_.spec, activation_)) {
      sums_ = at::empty({n()}, on_gpu(at::kInt));
      gpu::number_sums(weight_, pointer<int32_t>(sums_), stream);
      weight_.number_sums = pointer<int32_t>(sums_);
    }
  } else if (cores) {
    few_ = many_ = {Kind::kNumbers, true};
  } else {
    few_ = many_ = {Kind::kValues, true};
  }
  if (many_.kind == Kind::kNumbers && many_.resident) {
    numbers_ = at::empty({n(), k()}, on_gpu(at::kChar));
    unpack(numbers_);
    if (packed) few_rows_ = most_rows_beside_int8(weight_.spec, activation_, k());
  }
  if (many_.kind == Kind::kValues && many_.resident) {
    values_ = at::empty({n(), k()}, on_gpu(value_type()));
    unpack(values_);
  }
  if (!packed) {  // nothing reads the packed form again
    lanes_ = pairs_ = at::Tensor();
    weight_.lanes = weight_.pairs = nullptr;
  }
}

const DeviceLinear::Product& DeviceLinear::product(int64_t rows) const {
  return rows <= few_rows_ ? few_ : many_;
}

void DeviceLinear::unpack(const at::Tensor& out) const {
  const gpu::Stream stream = ops::current_stream();
  if (out.scalar_type() == at::kChar) {
    gpu::unpack_numbers(weight_, pointer<int8_t>(out), stream);
  } else if (out.scalar_type() == at::kFloat) {
    gpu::unpack_values<float>(weight_, pointer<float>(out), stream);
  } else {
    gpu::unpack_values<bfloat16>(weight_, pointer<bfloat16>(out), stream);
  }
}

at::Tensor DeviceLinear::unpacked(const at::Tensor& resident, const ProductBuffers& buffers,
                                  at::ScalarType type) const {
  if (resident.defined()) return resident;
  const auto bytes = n() * k() * static_cast<int64_t>(c10::elementSize(type));
  const at::Tensor out = buffers.unpacked.narrow(0, 0, bytes).view(type).view({n(), k()});
  unpack(out);
  return out;
}

template <class T>
gpu::QuantizedRows DeviceLinear::input(const ProductBuffers& buffers, int64_t rows) const {
  gpu::QuantizedRows out;
  out.values_are_bfloat16 = std::is_same_v<T, bfloat16>;
  if (takes_values(rows)) {
    out.values = buffers.values.data_ptr();
  } else {
    out.codes = pointer<int8_t>(buffers.codes);
    out.units = pointer<float>(buffers.units);
  }
  return out;
}

template <class T>
void DeviceLinear::multiply(const ProductBuffers& buffers, int64_t rows, T* out) const {
  const gpu::Stream stream = ops::current_stream();
  const auto* codes = pointer<int8_t>(buffers.codes);
  const auto* units = pointer<float>(buffers.units);
  switch (product(rows).kind) {
    case Kind::kPacked:
      for (int64_t row = 0; row < rows; row += gpu::kMaxPackedRows) {
        gpu::packed_gemm<T>(weight_, activation_, codes + row * k(), units + row,
                            std::min(rows - row, gpu::kMaxPackedRows), out + row * n(), stream);
      }
      return;
    case Kind::kNumbers: {
      const at::Tensor w = unpacked(numbers_, buffers, at::kChar);
      gpu::gemm_lowbit<T>(codes, units, pointer<int8_t>(w), weight_.units, rows, n(), k(), out,
                          stream);
      return;
    }
    case Kind::kValues: {
      at::Tensor result = at::from_blob(out, {rows, n()}, on_gpu(kTypeOf<T>));
      const at::Tensor x = buffers.values.view(at::kByte)
                               .narrow(0, 0, rows * k() * static_cast<int64_t>(sizeof(T)))
                               .view(kTypeOf<T>)
                               .view({rows, k()});
      const at::Tensor w = unpacked(values_, buffers, value_type());
      if (value_type() == kTypeOf<T>) {
        at::mm_out(result, x, w.t());
      } else {
        result.copy_(at::mm(x.to(value_type()), w.t()));
      }
      return;
    }
  }
}

bool DeviceLinear::decodes_in_one(bool (*supports)(const QuantSpec&, const QuantSpec&, int64_t,
                                                   int64_t)) const {
  return product(1).kind == Kind::kPacked && supports(weight_.spec, activation_, n(), k());
}

template <class Row>
void DeviceLinear::decode(const Row& row, const gpu::deploy::DecodeOut& out) const {
  gpu::deploy::decode_linear(weight_, activation_, row, out, ops::current_stream());
}
template void DeviceLinear::decode(const gpu::deploy::NormedRow&,
                                   const gpu::deploy::DecodeOut&) const;
template void DeviceLinear::decode(const gpu::deploy::GivenRow&,
                                   const gpu::deploy::DecodeOut&) const;
template void DeviceLinear::decode(const gpu::deploy::SignRow&,
                                   const gpu::deploy::DecodeOut&) const;
template void DeviceLinear::decode(const gpu::deploy::SwigluRow&,
                                   const gpu::deploy::DecodeOut&) const;

bool DeviceLinear::takes_signs() const {
  return gpu::deploy::decode_takes_signs(weight_.spec, activation_);
}

std::pair<const void*, int64_t> DeviceLinear::late_weights() const {
  return gpu::deploy::decode_late_weights(weight_);
}

gpu::deploy::SwigluRow DeviceLinear::decode_pairs(const gpu::deploy::NormedRow& row,
                                                  const QuantSpec& next,
                                                  const gpu::deploy::SwigluMemory& memory) const {
  return gpu::deploy::decode_gate_up(weight_, activation_, row, next, memory,
                                     ops::current_stream());
}

std::string DeviceLinear::plan_text(int64_t rows) const {
  const Product& p = product(rows);
  switch (p.kind) {
    case Kind::kPacked:
      return gpu::packed_gemm_plan(weight_.spec, activation_, std::min(rows, gpu::kMaxPackedRows)) +
             (rows > gpu::kMaxPackedRows ? fmt::format(", {} rows at a time", gpu::kMaxPackedRows)
                                         : "");
    case Kind::kNumbers:
      return fmt::format("{}, weights {}", gpu::gemm_lowbit_plan(),
                         p.resident ? "kept as int8" : "unpacked each time");
    case Kind::kValues:
      return fmt::format("product of {} values, weights {}", exact_ ? "FP32" : "BF16",
                         p.resident ? "kept as values" : "unpacked each time");
  }
  return {};
}

int64_t DeviceLinear::bytes() const {
  return bytes_of({lanes_, pairs_, units_, sums_, numbers_, values_});
}

int64_t DeviceLinear::unpacked_bytes() const {
  if (many_.resident || many_.kind == Kind::kPacked) return 0;
  const at::ScalarType type = many_.kind == Kind::kNumbers ? at::kChar : value_type();
  return n() * k() * static_cast<int64_t>(c10::elementSize(type));
}

template gpu::QuantizedRows DeviceLinear::input<float>(const ProductBuffers&, int64_t) const;
template gpu::QuantizedRows DeviceLinear::input<bfloat16>(const ProductBuffers&, int64_t) const;
template void DeviceLinear::multiply<float>(const ProductBuffers&, int64_t, float*) const;
template void DeviceLinear::multiply<bfloat16>(const ProductBuffers&, int64_t, bfloat16*) const;

DeviceTableMemory::DeviceTableMemory(const PackedTable& table) {
  view_.form = table_view(table).form;
  view_.rows = table.rows;
  view_.columns = table.columns;
  switch (table.format) {
    case TableFormat::kBf16:
      weight_ = to_device(table.weight.data(), table.rows * table.columns, at::kBFloat16);
      view_.weight = weight_.data_ptr();
      return;
    case TableFormat::kInt8:
      codes_ = upload_lanes(table.tiles, table.codes);
      units_ = to_device(table.row_units.data(), table.rows, at::kFloat);
      view_.row_units = pointer<float>(units_);
      break;
    case TableFormat::kInt4: {
      codes_ = upload_lanes(table.tiles, table.codes, LaneOrder::kGroups);
      std::vector<bfloat16> units(
          static_cast<size_t>(kernels::lane_unit_count(table.rows, table.columns)));
      kernels::to_lane_units(table.group_units.data(), table.rows, table.columns, units.data());
      units_ = to_device(units.data(), static_cast<int64_t>(units.size()), at::kBFloat16);
      view_.group_units = pointer<bfloat16>(units_);
      break;
    }
  }
  view_.weight = codes_.data_ptr();
}

int64_t DeviceTableMemory::bytes() const { return bytes_of({weight_, codes_, units_}); }

}  // namespace quest::runtime_gpu
