#include "quest/ops/matmul.h"

#include <algorithm>

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/record_function.h>

#include "quest/base/integer_math.h"
#include "quest/kernels/gemm_bf16.h"
#include "quest/kernels/gemm_fixed_point.h"
#include "quest/ops/dispatch.h"

namespace quest::ops {
namespace {

// Below this size packing costs more than it gains.
constexpr int64_t kMinTileRows = 64;

bool is_large(int64_t m, int64_t n, int64_t k) { return std::min({m, n, k}) >= kMinTileRows; }

bool uses_tiles(const at::Tensor& a, const at::Tensor& b) {
  if (!a.is_cpu() || !is_large(a.size(0), b.size(1), a.size(1))) return false;
  return a.scalar_type() == at::kBFloat16
             ? kernels::gemm_bf16_supports()
             : a.scalar_type() == at::kFloat && kernels::gemm_fixed_point_supports();
}

// A copy only if neither stride is 1.
at::Tensor with_unit_stride(const at::Tensor& x) {
  return x.stride(0) == 1 || x.stride(1) == 1 ? x : x.contiguous();
}

at::Tensor memory(const at::Tensor& like, int64_t count, at::ScalarType type) {
  return at::empty({count}, like.options().dtype(type).requires_grad(false));
}

// Packs the shared operand of a product into `packed`, then runs its tasks.
template <class Plan, class Pack, class Run>
void pack_and_run(const Plan& plan, const Pack& pack, const Run& run) {
  at::parallel_for(0, plan.shared_panels, 1, [&](int64_t begin, int64_t end) { pack(begin, end); });
  parallel_tasks(plan.tasks, run);
}

// A sum over K in parts of at most `limit`, multiples of `step` but for the last: part(at, depth).
template <class F>
void for_parts(int64_t k, int64_t limit, int64_t step, const F& part) {
  const int64_t parts = divide_up(k, limit);
  const int64_t depth = round_up(divide_up(k, parts), step);
  for (int64_t at = 0; at < k; at += depth) part(at, std::min(depth, k - at));
}

// out (M,N) contiguous, float or bfloat16, = or += a b, bfloat16, any K.
void multiply_bf16(const at::Tensor& a, const at::Tensor& b, at::Tensor& out, bool accumulate) {
  kernels::GemmBf16 product;
  product.m = a.size(0);
  product.n = b.size(1);
  product.out = out.data_ptr();
  product.ldo = out.stride(0);
  product.out_is_bfloat16 = out.scalar_type() == at::kBFloat16;
  const auto operand = [](const at::Tensor& x) {
    return kernels::GemmOperand{data<bfloat16>(x), x.stride(0), x.stride(1)};
  };
  for_parts(a.size(1), kernels::kMaxGemmBf16Depth, 32, [&](int64_t at, int64_t depth) {
    product.k = depth;
    product.a = operand(a.narrow(1, at, depth));
    product.b = operand(b.narrow(0, at, depth));
    product.accumulate = accumulate || at > 0;
    const auto plan = kernels::plan_gemm_bf16(product, at::get_num_threads());
    const at::Tensor packed = memory(a, plan.shared_panels * plan.panel_elements, at::kBFloat16);
    auto* shared = data<bfloat16>(packed);
    pack_and_run(
        plan,
        [&](int64_t begin, int64_t end) {
          kernels::gemm_bf16_pack(product, plan, begin, end, shared);
        },
        [&](int64_t begin, int64_t end) {
          kernels::gemm_bf16_run(product, plan, shared, begin, end);
        });
  });
}

// out (M,N) float, contiguous, = or += a b, any K; b: FP32, or int8 codes with contiguous rows.
// a_scales (K) or null: of a.
void multiply_fixed_point(const at::Tensor& a, const float* a_scales, const at::Tensor& b,
                          at::Tensor& out, bool accumulate) {
  kernels::GemmFixedPoint product;
  product.m = a.size(0);
  product.n = b.size(1);
  product.out = data<float>(out);
  product.ldo = out.stride(0);
  const auto operand = [](const at::Tensor& x, const float* scales) {
    return kernels::FixedPointOperand{data<float>(x), x.stride(0), x.stride(1), scales};
  };
  for_parts(a.size(1), kernels::kMaxFixedPointDepth, 64, [&](int64_t at, int64_t depth) {
    product.k = depth;
    product.a = operand(a.narrow(1, at, depth), a_scales == nullptr ? nullptr : a_scales + at);
    const at::Tensor part = b.narrow(0, at, depth);
    if (b.scalar_type() == at::kChar) {
      product.codes = data<int8_t>(part);
      product.codes_stride = part.stride(0);
    } else {
      product.b = operand(part, nullptr);
    }
    product.accumulate = accumulate || at > 0;
    const auto plan = kernels::plan_gemm_fixed_point(product, at::get_num_threads());
    const at::Tensor packed = memory(a, plan.shared_panels * plan.shared_panel_bytes, at::kChar);
    auto* shared = data<int8_t>(packed);
    pack_and_run(
        plan,
        [&](int64_t begin, int64_t end) {
          kernels::gemm_fixed_point_pack(product, plan, begin, end, shared);
        },
        [&](int64_t begin, int64_t end) {
          kernels::gemm_fixed_point_run(product, plan, shared, begin, end);
        });
  });
}

void multiply_tiles(const at::Tensor& a, const at::Tensor& b, at::Tensor& out, bool accumulate) {
  RECORD_USER_SCOPE("quest::matmul");
  if (a.scalar_type() == at::kFloat) {
    multiply_fixed_point(with_unit_stride(a), nullptr, with_unit_stride(b), out, accumulate);
  } else {
    multiply_bf16(with_unit_stride(a), with_unit_stride(b), out, accumulate);
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
  const bool one_part = a.scalar_type() == at::kBFloat16 && a.size(1) <= kernels::kMaxGemmBf16Depth;
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

bool supports_matmul_codes(int64_t m, int64_t n, int64_t r) {
  return kernels::gemm_fixed_point_supports() && is_large(m, n, r);
}

at::Tensor matmul_codes(const at::Tensor& a, bool a_transposed, const at::Tensor& scales,
                        const at::Tensor& codes) {
  RECORD_USER_SCOPE("quest::matmul");
  QUEST_ASSERT(a.scalar_type() == at::kFloat && a.is_contiguous() &&
                   codes.scalar_type() == at::kChar && codes.is_contiguous() &&
                   a.size(a_transposed ? 0 : 1) == codes.size(0) && scales.numel() == codes.size(0),
               "matmul_codes of ({}, {}) {} and ({}, {}) {}", a.size(0), a.size(1),
               at::toString(a.scalar_type()), codes.size(0), codes.size(1),
               at::toString(codes.scalar_type()));
  at::Tensor out = at::empty({a.size(a_transposed ? 1 : 0), codes.size(1)}, a.options());
  multiply_fixed_point(a_transposed ? a.t() : a, data<float>(scales), codes, out,
                       /*accumulate=*/false);
  return out;
}

std::string matmul_plan(at::ScalarType type) {
  if (type == at::kBFloat16 && kernels::gemm_bf16_supports()) return "AMX tiles";
  if (type == at::kFloat && kernels::gemm_fixed_point_supports()) {
    return "AMX tiles, FP32 values as integers of 24 bits";
  }
  return "LibTorch";
}

}  // namespace quest::ops
