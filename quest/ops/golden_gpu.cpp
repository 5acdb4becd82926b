#include "quest/ops/golden_gpu.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/quantized_tensor.h"

namespace quest::ops {
namespace {

namespace gpu = kernels::cuda;

at::Tensor upload(std::span<const float> rows, int64_t m, int64_t k) {
  return at::from_blob(const_cast<float*>(rows.data()), {m, k}, at::kFloat).cuda();
}

// Waits for what computes the tensor.
template <class T>
std::vector<T> download(const at::Tensor& tensor) {
  const at::Tensor host = tensor.cpu().contiguous();
  return {data<T>(host), data<T>(host) + host.numel()};
}

at::Tensor empty_on_gpu(std::vector<int64_t> shape, at::ScalarType type) {
  return at::empty(shape, at::TensorOptions(type).device(at::kCUDA));
}

std::optional<QuantizerResult> run(const QuantSpec& spec, std::span<const float> x,
                                   std::span<const float> grad_out, int64_t m, int64_t k,
                                   bool values_beside) {
  const bool has_codes = has_code_grid(spec);
  if (!has_codes && !values_beside) return std::nullopt;
  const at::Tensor in = upload(x, m, k), y = empty_on_gpu({m, k}, at::kFloat);
  const at::Tensor grad = upload(grad_out, m, k), units = empty_on_gpu({m}, at::kFloat);
  const at::Tensor mask = empty_on_gpu({m, (k + 7) / 8}, at::kByte);
  const at::Tensor codes = has_codes ? empty_on_gpu({m, k}, at::kChar) : at::Tensor();
  gpu::QuantizedRows rows;
  if (has_codes) rows.codes = data<int8_t>(codes);
  rows.units = data<float>(units);
  rows.mask = data<uint8_t>(mask);
  if (values_beside) rows.values = data<float>(y);
  rows.values_are_bfloat16 = false;
  const gpu::Stream stream = current_stream();
  gpu::hadamard_quantize<float>(spec, data<float>(in), m, k, rows, stream);
  if (!values_beside) {
    gpu::dequantize_rows<float>(spec, data<int8_t>(codes), data<float>(units), m, k, data<float>(y),
                                stream);
  }
  if (spec.hadamard) {  // without a mask this is the rotation alone
    gpu::mask_hadamard<float>(spec, data<float>(y), nullptr, m, k, data<float>(y), stream);
    gpu::mask_hadamard<float>(spec, data<float>(grad), nullptr, m, k, data<float>(grad), stream);
  }
  gpu::mask_hadamard<float>(spec, data<float>(grad), data<uint8_t>(mask), m, k, data<float>(grad),
                            stream);
  QuantizerResult out;
  out.y = download<float>(y);
  out.grad_x = download<float>(grad);
  if (has_codes) out.codes = download<int8_t>(codes);
  out.units = download<float>(units);
  out.mask = download<uint8_t>(mask);
  return out;
}

QuantizerImplementation implementation(const char* name, bool values_beside) {
  return {name, [values_beside](const QuantSpec& spec, std::span<const float> x,
                                std::span<const float> grad_out, int64_t rows, int64_t k) {
            return run(spec, x, grad_out, rows, k, values_beside);
          }};
}

}  // namespace

std::vector<QuantizerImplementation> gpu_quantizer_implementations() {
  const std::string reason = gpu_unusable_reason();
  QUEST_CHECK(reason.empty(), ErrorKind::kEnvironment, "{}", reason);
  return {implementation("the GPU", false), implementation("the GPU with values", true)};
}

}  // namespace quest::ops
