// Products of matrices of the compute type: bfloat16 through kernels/gemm_bf16.h and FP32 through
// kernels/gemm_fixed_point.h where the CPU has AMX and the product is large, all else through
// LibTorch.
//
//   const at::Tensor grad_w = matmul(grad_y.t(), x, at::kFloat);   // transposed views cost nothing
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace quest::ops {

// a (M,K) times b (K,N), both of one type, any strides -> (M,N) of out_type (the operands' type, or
// float). Sums are FP32 for bfloat16.
at::Tensor matmul(const at::Tensor& a, const at::Tensor& b, at::ScalarType out_type);

// out (M,N) float = or, with add, += a (M,K) b (K,N); a and b float or bfloat16.
void matmul_into(const at::Tensor& a, const at::Tensor& b, bool add, at::Tensor& out);

// An FP32 product with codes on AMX: codes (R,N) int8; a (M,R) or, with a_transposed, (R,M) float.
// sum_r a[m][r] * scales[r] * codes[r][n] -> (M,N) float, as exact as an FP32 product of values
// (kernels/gemm_fixed_point.h) and half the work. Only where supports_matmul_codes().
bool supports_matmul_codes(int64_t m, int64_t n, int64_t r);
at::Tensor matmul_codes(const at::Tensor& a, bool a_transposed, const at::Tensor& scales,
                        const at::Tensor& codes);

// What large products of this type run on: "LibTorch", "AMX tiles", ...
std::string matmul_plan(at::ScalarType type);

}  // namespace quest::ops
