#include "quest/ops/matmul.h"

#include <algorithm>

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/record_function.h>

#include "quest/kernels/gemm_bf16.h"
#include "quest/ops/dispatch.h"

namespace quest::ops {
namespace {

// Below this size packing costs more than it gains.
constexpr int64_t kMinTileRows = 64;

bool fits_tiles(int64_t m, int64_t n, int64_t k) {
  return kernels::gemm_bf16_supports() && std::min({m, n, k}) >= kMinTileRows;
}

bool is_tile_type(const at::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat);
}

bool uses_tiles(const at::Tensor& a, const at::Tensor& b) {
  return is_tile_type(a) && fits_tiles(a.size(0), b.size(1), a.size(1));
}

// A copy only if neither stride is 1.
at::Tensor with_unit_stride(const at::Tensor& x) {
  return x.stride(0) == 1 || x.stride(1) == 1 ? x : x.contiguous();
}

kernels::GemmOperand operand(const at::Tensor& x, const float* k_scales = nullptr) {
  if (x.scalar_type() == at::kFloat) return {data<float>(x), x.stride(0), x.stride(1), k_scales};
  return {data<bfloat16>(x), x.stride(0), x.stride(1)};
}

int64_t max_depth(const at::Tensor& a, const at::Tensor& b) {
  return kernels::max_gemm_bf16_depth(std::max(operand(a).pieces(), operand(b).pieces()));
}

// One product; its output and whether to add are set.
void run_tiles(const kernels::GemmBf16& product, const at::TensorOptions& options) {
  const kernels::GemmBf16Plan plan = kernels::plan_gemm_bf16(product, at::get_num_threads());
  const at::Tensor packed = at::empty({plan.shared_panels * plan.shared_panel_elements},
                                      options.dtype(at::kBFloat16).requires_grad(false));
  auto* shared = data<bfloat16>(packed);
  at::parallel_for(0, plan.shared_panels, 1, [&](int64_t begin, int64_t end) {
    kernels::gemm_bf16_pack(product, plan, begin, end, shared);
  });
  parallel_tasks(plan.tasks, [&](int64_t begin, int64_t end) {
    kernels::gemm_bf16_run(product, plan, shared, begin, end);
  });
}

// out (M,N) contiguous, float or bfloat16. Any K, in parts. a_scales (K) or null: of a, which is
// float then.
void multiply_tiles(at::Tensor a, at::Tensor b, at::Tensor& out, bool accumulate,
                    const float* a_scales = nullptr) {
  RECORD_USER_SCOPE("quest::matmul");
  a = with_unit_stride(a);
  b = with_unit_stride(b);
  kernels::GemmBf16 product;
  product.m = a.size(0);
  product.n = b.size(1);
  product.out = out.data_ptr();
  product.ldo = out.stride(0);
  product.out_is_bfloat16 = out.scalar_type() == at::kBFloat16;
  const int64_t k = a.size(1);
  const int64_t limit = max_depth(a, b);
  const int64_t parts = (k + limit - 1) / limit;
  const int64_t depth = ((k + parts - 1) / parts + 31) / 32 * 32;
  for (int64_t at = 0; at < k; at += depth) {
    product.k = std::min(depth, k - at);
    product.a = operand(a.narrow(1, at, product.k), a_scales == nullptr ? nullptr : a_scales + at);
    product.b = operand(b.narrow(0, at, product.k));
    product.accumulate = accumulate || at > 0;
    run_tiles(product, a.options());
  }
}

}  // namespace

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b, at::ScalarType out_type) {
  QUEST_ASSERT(
      a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) && a.scalar_type() == b.scalar_type(),
      "matmul of ({}, {}) and ({}, {})", a.size(0), a.size(-1), b.size(0), b.size(-1));
  if (a.is_cuda() && a.scalar_type() == at::kBFloat16 && out_type == at::kFloat) {
    return at::mm(a, b, out_type);  // FP32 sums are written as they are
  }
  if (!uses_tiles(a, b)) {
    return at::mm(a, b).to(out_type);
  }
  // Sums over several parts are kept in FP32 between them.
  const bool one_part = a.size(1) <= max_depth(a, b);
  at::Tensor out =
      at::empty({a.size(0), b.size(1)},
                a.options().dtype(one_part ? out_type : at::kFloat).requires_grad(false));
  multiply_tiles(a, b, out, false);
  return out.to(out_type);
}

void matmul_into(const at::Tensor& a, const at::Tensor& b, bool add, at::Tensor& out) {
  QUEST_ASSERT(out.scalar_type() == at::kFloat && out.is_contiguous(), "matmul_into a {}",
               at::toString(out.scalar_type()));
  if (uses_tiles(a, b)) {
    multiply_tiles(a, b, out, add);
    return;
  }
  if (a.scalar_type() == at::kFloat) {
    add ? at::addmm_out(out, out, a, b) : at::mm_out(out, a, b);
    return;
  }
  if (a.is_cuda()) {
    add ? at::addmm_out(out, out, a, b, at::kFloat) : at::mm_out(out, a, b, at::kFloat);
    return;
  }
  // LibTorch's add_ of another type would first make a copy of it.
  const at::Tensor product = at::mm(a, b);
  const int64_t columns = product.size(1);
  with_kernel_type(product.scalar_type(), "matmul_into", [&](auto element) {
    using T = decltype(element);
    parallel_rows(product.size(0), columns, [&](int64_t begin, int64_t end) {
      const T* from = data<T>(product) + begin * columns;
      float* to = data<float>(out) + begin * columns;
      for (int64_t i = 0; i < (end - begin) * columns; ++i) {
        to[i] = static_cast<float>(from[i]) + (add ? to[i] : 0.0f);
      }
    });
  });
}

bool supports_matmul_codes(int64_t m, int64_t n, int64_t r) { return fits_tiles(m, n, r); }

at::Tensor matmul_codes(const at::Tensor& a, bool a_transposed, const at::Tensor& scales,
                        const at::Tensor& numbers) {
  QUEST_ASSERT(a.scalar_type() == at::kFloat && a.is_contiguous() &&
                   numbers.scalar_type() == at::kBFloat16 &&
                   a.size(a_transposed ? 0 : 1) == numbers.size(0) &&
                   scales.numel() == numbers.size(0),
               "matmul_codes of ({}, {}) {} and ({}, {}) {}", a.size(0), a.size(1),
               at::toString(a.scalar_type()), numbers.size(0), numbers.size(1),
               at::toString(numbers.scalar_type()));
  at::Tensor out = at::empty({a.size(a_transposed ? 1 : 0), numbers.size(1)}, a.options());
  multiply_tiles(a_transposed ? a.t() : a, numbers, out, /*accumulate=*/false, data<float>(scales));
  return out;
}

std::string matmul_plan(at::ScalarType type) {
  if (!kernels::gemm_bf16_supports()) return "LibTorch";
  return type == at::kBFloat16 ? "AMX tiles"
         : type == at::kFloat  ? "AMX tiles, FP32 values as three bfloat16 pieces"
                               : "LibTorch";
}

}  // namespace quest::ops
