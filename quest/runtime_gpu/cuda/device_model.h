// A packed model in device memory: its linear layers and tables as the GPU's kernels take them.
//
//   DeviceLinear layer(name, tensor, activation, settings);
//   const QuantizedRows in = layer.input(buffers, rows);      // what the quantizer is to write
//   layer.multiply<float>(buffers, rows, out);                // out (rows, N)
//
// How a product runs is decided when the model is loaded, once for few rows (at most few_rows())
// and once for many; plan_text() says it. Both have the same bits where both are of codes.
//
// Thread rules: one thread. Errors: kEnvironment of CUDA's.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "quest/kernels/cuda/decode_linear.h"
#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/cuda/table_gemm.h"
#include "quest/packed/packed_model.h"

namespace quest::runtime_gpu {

// One call's quantized rows, and memory that products unpack weights into. Shared by all layers.
struct ProductBuffers {
  at::Tensor codes;     // (rows, max K) int8
  at::Tensor units;     // (rows) f32
  at::Tensor values;    // (rows, max K) of the type of the call
  at::Tensor unpacked;  // bytes of one weight, as many as the largest unpacked_bytes()
};

struct LinearSettings {
  bool exact = false;     // values of weights in FP32 instead of BF16
  bool unpacked = false;  // keep int8 copies
};

class DeviceLinear {
 public:
  DeviceLinear(std::string name, const PackedTensor& tensor, const QuantSpec& activation,
               const LinearSettings& settings);

  // The quantizer of its input rows.
  const QuantSpec& input_spec() const { return input_; }
  // Where that quantizer is to write, rows of element type T (of values).
  template <class T>
  kernels::cuda::QuantizedRows input(const ProductBuffers& buffers, int64_t rows) const;
  // out (rows, N) of what input() was filled with.
  template <class T>
  void multiply(const ProductBuffers& buffers, int64_t rows, T* out) const;

  // Whether quantizer and product of a single row of FP32 can be one kernel: `supports` is the
  // question of decode_linear.h for the row. Then decode() and decode_pairs() run it.
  bool decodes_in_one(bool (*supports)(const QuantSpec&, const QuantSpec&, int64_t, int64_t)) const;
  template <class Row>
  void decode(const Row& row, const kernels::cuda::deploy::DecodeOut& out) const;
  bool takes_signs() const;  // decode() of a SignRow
  // What decode_pairs() reads last of its weights of 1 bit: kernels before may fetch it.
  std::pair<const void*, int64_t> late_weights() const;
  kernels::cuda::deploy::SwigluRow decode_pairs(
      const kernels::cuda::deploy::NormedRow& row, const QuantSpec& next,
      const kernels::cuda::deploy::SwigluMemory& memory) const;

  const std::string& name() const { return name_; }
  int64_t n() const { return weight_.n; }
  int64_t k() const { return weight_.k; }
  // The most rows of the product for few.
  int64_t few_rows() const { return few_rows_; }
  // If a product of so many rows is one of values, not codes.
  bool takes_values(int64_t rows) const { return product(rows).kind == Kind::kValues; }
  std::string plan_text(int64_t rows) const;
  int64_t bytes() const;           // of its weights on the device
  int64_t unpacked_bytes() const;  // that it needs of ProductBuffers::unpacked

 private:
  enum class Kind { kPacked, kNumbers, kValues };
  struct Product {
    Kind kind = Kind::kPacked;
    bool resident = false;  // unpacked when the model was loaded
  };

  void upload(const PackedTensor& tensor);
  void choose(const LinearSettings& settings, bool has_codes);
  const Product& product(int64_t rows) const;
  // Of weights as values.
  at::ScalarType value_type() const { return exact_ ? at::kFloat : at::kBFloat16; }
  // out (N,K): numbers if it is int8, else values.
  void unpack(const at::Tensor& out) const;
  // What is resident, or else unpacked for this call.
  at::Tensor unpacked(const at::Tensor& resident, const ProductBuffers& buffers,
                      at::ScalarType type) const;

  std::string name_;
  QuantSpec activation_, input_;
  kernels::cuda::DeviceWeight weight_;
  at::Tensor lanes_, pairs_, units_, sums_;  // what weight_ points to
  at::Tensor numbers_, values_;              // (N,K) int8; BF16 or FP32
  Product few_, many_;
  int64_t few_rows_ = kernels::cuda::kMaxPackedRows;
  bool exact_ = false;
};

// The embedding or head.
class DeviceTableMemory {
 public:
  explicit DeviceTableMemory(const PackedTable& table);
  const kernels::cuda::DeviceTable& view() const { return view_; }
  int64_t bytes() const;

 private:
  kernels::cuda::DeviceTable view_;
  at::Tensor weight_, codes_, units_;
};

// Host memory to new device memory.
at::Tensor to_device(const void* bytes, int64_t count, at::ScalarType type);

}  // namespace quest::runtime_gpu
