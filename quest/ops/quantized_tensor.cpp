#include "quest/ops/quantized_tensor.h"

#include <atomic>
#include <cmath>
#include <limits>

#include <ATen/ops/empty.h>
#include <ATen/record_function.h>

#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/gpu_rows.h"

namespace quest::ops {
namespace {

at::Tensor empty_like_rows(const at::Tensor& x, std::vector<int64_t> shape, at::ScalarType type) {
  return at::empty(shape, x.options().dtype(type).requires_grad(false));
}

void quantize_on_gpu(const QuantSpec& spec, const at::Tensor& x, const QuantizedTensor& out) {
  with_kernel_type(x.scalar_type(), "quantize", [&](auto element) {
    using T = decltype(element);
    kernels::cuda::hadamard_quantize<T>(spec, data<T>(x), x.size(0), x.size(1), gpu_rows(out),
                                        current_stream());
  });
}

// Remembers the first bad row that any thread finds.
class FirstBadRow {
 public:
  void report(int64_t row) {
    int64_t seen = row_.load();
    while (row < seen && !row_.compare_exchange_weak(seen, row)) {
    }
  }
  void check(std::string_view name) const {
    const int64_t row = row_.load();
    QUEST_CHECK(row == kNone, ErrorKind::kNumeric,
                "[quantize] {}: the RMS of row {} is not finite (a NaN, an infinity, or values too "
                "large to square); lower the learning rate or look at the data of this step",
                name, row);
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> row_{kNone};
};

// The scalar definition, row by row: double, and grids that have no kernels.
template <class Real>
void quantize_by_definition(const QuantSpec& spec, const at::Tensor& x, QuantizedTensor& out,
                            std::string_view name) {
  const int64_t m = x.size(0), k = x.size(1), mask_bytes = (k + 7) / 8;
  const auto columns = static_cast<size_t>(k);
  out.values = empty_like_rows(x, {m, k}, x.scalar_type());
  FirstBadRow bad;
  parallel_rows(m, k, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      RowOutput<Real> result;
      result.values = {data<Real>(out.values) + row * k, columns};
      if (out.mask.defined()) {
        result.mask = {data<uint8_t>(out.mask) + row * mask_bytes, static_cast<size_t>(mask_bytes)};
      }
      const std::span<const Real> input(data<Real>(x) + row * k, columns);
      if (!std::isfinite(quantize_row<Real>(spec, input, result))) {
        bad.report(row);
      }
    }
  });
  bad.check(name);
}

void quantize_by_kernel(const QuantSpec& spec, const at::Tensor& x, const QuantizedTensor& out,
                        std::string_view name) {
  const int64_t m = x.size(0), k = x.size(1), mask_bytes = (k + 7) / 8;
  FirstBadRow bad;
  with_kernel_type(x.scalar_type(), "quantize", [&](auto element) {
    using T = decltype(element);
    parallel_rows(m, k, [&](int64_t begin, int64_t end) {
      uint8_t* mask = out.mask.defined() ? data<uint8_t>(out.mask) + begin * mask_bytes : nullptr;
      const int64_t row = kernels::hadamard_quantize<T>(spec, data<T>(x) + begin * k, end - begin,
                                                        k, data<int8_t>(out.codes) + begin * k,
                                                        data<float>(out.units) + begin, mask);
      if (row >= 0) {
        bad.report(begin + row);
      }
    });
  });
  bad.check(name);
}

at::Tensor rotate(const at::Tensor& x) {
  at::Tensor rotated = empty_like_rows(x, {x.size(0), x.size(1)}, x.scalar_type());
  with_kernel_type(x.scalar_type(), "hadamard", [&](auto element) {
    using T = decltype(element);
    parallel_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
      const int64_t offset = begin * x.size(1);
      kernels::hadamard_rows<T>(data<T>(x) + offset, end - begin, x.size(1),
                                data<T>(rotated) + offset);
    });
  });
  return rotated;
}

}  // namespace

bool has_code_grid(const QuantSpec& spec) {
  return spec.grid != Grid::kNone && spec.grid != Grid::kMask4of8 && spec.grid != Grid::kRegistered;
}

bool has_gradient_mask(const QuantSpec& spec) {
  return spec.is_quantized() && spec.registered == nullptr &&
         (spec.estimator != GradientEstimator::kSte || spec.grid == Grid::kMask4of8);
}

QuantizedTensor empty_codes(const QuantSpec& spec, int64_t m, int64_t k, bool want_mask,
                            const at::TensorOptions& options) {
  QuantizedTensor q;
  q.codes = at::empty({m, k}, options.dtype(at::kChar));
  q.units = at::empty({m}, options.dtype(at::kFloat));
  if (want_mask && has_gradient_mask(spec)) {
    q.mask = at::empty({m, (k + 7) / 8}, options.dtype(at::kByte));
  }
  return q;
}

kernels::cuda::QuantizedRows gpu_rows(const QuantizedTensor& q) {
  kernels::cuda::QuantizedRows rows;
  if (q.codes.defined()) rows.codes = data<int8_t>(q.codes);
  if (q.units.defined()) rows.units = data<float>(q.units);
  if (q.mask.defined()) rows.mask = data<uint8_t>(q.mask);
  if (q.values.defined()) {
    rows.values = q.values.data_ptr();
    rows.values_are_bfloat16 = q.values.scalar_type() == at::kBFloat16;
  }
  return rows;
}

QuantizedTensor quantize(const QuantSpec& spec, const at::Tensor& x, at::ScalarType value_type,
                         bool want_mask, std::string_view name) {
  RECORD_USER_SCOPE("quest::quantize");
  QUEST_CHECK(x.dim() == 2 && x.is_contiguous(), ErrorKind::kUsage,
              "[quantize] {}: x must be a contiguous matrix, it has {} dimensions", name, x.dim());
  QuantizedTensor out;
  if (has_code_grid(spec) && x.scalar_type() != at::kDouble) {
    out = empty_codes(spec, x.size(0), x.size(1), want_mask, x.options().requires_grad(false));
    x.is_cuda() ? quantize_on_gpu(spec, x, out) : quantize_by_kernel(spec, x, out, name);
    return out;
  }
  if (want_mask && has_gradient_mask(spec)) {
    out.mask = empty_like_rows(x, {x.size(0), (x.size(1) + 7) / 8}, at::kByte);
  }
  if (x.is_cuda()) {
    if (spec.grid == Grid::kNone && !spec.hadamard) {
      out.values = x.to(value_type);
      return out;
    }
    out.values = empty_like_rows(x, {x.size(0), x.size(1)}, value_type);
    quantize_on_gpu(spec, x, out);
    return out;
  }
  if (x.scalar_type() == at::kDouble) {
    quantize_by_definition<double>(spec, x, out, name);
  } else if (spec.grid == Grid::kMask4of8) {
    quantize_by_definition<float>(spec, x.to(at::kFloat), out, name);
  } else {
    out.values = spec.hadamard ? rotate(x) : x;
  }
  out.values = out.values.to(value_type);
  return out;
}

at::Tensor dequantize(const QuantSpec& spec, const QuantizedTensor& quantized,
                      at::ScalarType value_type) {
  RECORD_USER_SCOPE("quest::dequantize");
  if (!quantized.has_codes()) {
    return quantized.values.to(value_type);
  }
  const int64_t m = quantized.codes.size(0), k = quantized.codes.size(1);
  const auto* codes = data<int8_t>(quantized.codes);
  const auto* units = data<float>(quantized.units);
  at::Tensor values = empty_like_rows(quantized.codes, {m, k}, value_type);
  with_kernel_type(value_type, "dequantize", [&](auto element) {
    using T = decltype(element);
    if (quantized.codes.is_cuda()) {
      kernels::cuda::dequantize_rows<T>(spec, codes, units, m, k, data<T>(values),
                                        current_stream());
      return;
    }
    parallel_rows(m, k, [&](int64_t begin, int64_t end) {
      kernels::dequantize_rows<T>(spec, codes + begin * k, units + begin, end - begin, k,
                                  data<T>(values) + begin * k);
    });
  });
  return values;
}

at::Tensor quantize_backward(const QuantSpec& spec, const at::Tensor& mask,
                             at::Tensor grad_values) {
  if (!mask.defined() && !spec.hadamard) {
    return grad_values;
  }
  RECORD_USER_SCOPE("quest::quantize_backward");
  grad_values = grad_values.contiguous();
  const int64_t m = grad_values.size(0), k = grad_values.size(1), mask_bytes = (k + 7) / 8;
  if (grad_values.scalar_type() == at::kDouble) {
    const auto columns = static_cast<size_t>(k);
    const std::vector<uint8_t> ones(static_cast<size_t>(mask_bytes), 0xff);
    at::Tensor grad_x = empty_like_rows(grad_values, {m, k}, at::kDouble);
    parallel_rows(m, k, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const uint8_t* bits = mask.defined() ? data<uint8_t>(mask) + row * mask_bytes : ones.data();
        quantize_row_backward<double>(spec, {bits, static_cast<size_t>(mask_bytes)},
                                      {data<double>(grad_values) + row * k, columns},
                                      {data<double>(grad_x) + row * k, columns});
      }
    });
    return grad_x;
  }
  with_kernel_type(grad_values.scalar_type(), "quantize_backward", [&](auto element) {
    using T = decltype(element);
    if (grad_values.is_cuda()) {
      kernels::cuda::mask_hadamard<T>(spec, data<T>(grad_values), pointer_or_null<uint8_t>(mask), m,
                                      k, data<T>(grad_values), current_stream());
      return;
    }
    parallel_rows(m, k, [&](int64_t begin, int64_t end) {
      T* rows = data<T>(grad_values) + begin * k;
      const uint8_t* bits = mask.defined() ? data<uint8_t>(mask) + begin * mask_bytes : nullptr;
      kernels::mask_hadamard<T>(spec, rows, bits, end - begin, k, rows);
    });
  });
  return grad_values;
}

}  // namespace quest::ops
