// The other operations of a layer on a GPU (norm, SwiGLU, rotary embedding, attention) against
// their definitions. Skipped where no GPU can be used.
#include <cmath>

#include <ATen/Context.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "quest/kernels/cuda/rms_norm.h"
#include "quest/kernels/cuda/rope.h"
#include "quest/kernels/cuda/swiglu.h"
#include "quest/kernels/rms_norm.h"
#include "quest/kernels/rope.h"
#include "quest/kernels/swiglu.h"
#include "quest/ops/attention.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/testing_gpu.h"
#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

using testing::CudaKernels;
using testing::expect_same_bits;
using testing::expect_within;
using testing::normal;
using testing::unwritten;
namespace gpu = kernels::cuda;

TEST_F(CudaKernels, RmsNormIsWithinRoundingOfTheDefinition) {
  for (const int64_t c : {1, 31, 33, 48, 256, 257, 640, 2048, 8320, 16512}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const int64_t m = 7;
      const float eps = 1e-5f;
      const at::Tensor x = normal({m, c}, 1, type), w = normal({c}, 2, at::kFloat);
      const at::Tensor grad = normal({m, c}, 3, type), residual = normal({m, c}, 4, type);
      const at::Tensor y = at::empty_like(x), inverse = at::empty({m}, at::kFloat);
      const at::Tensor grad_x = at::empty_like(x), grad_w = at::zeros({c}, at::kFloat);
      const at::Tensor dx = x.cuda(), dw = w.cuda(), dgrad = grad.cuda(), dres = residual.cuda();
      const at::Tensor got_y = unwritten({m, c}, type), got_inverse = unwritten({m}, at::kFloat);
      const at::Tensor got_x = unwritten({m, c}, type), got_w = unwritten({c}, at::kFloat);
      const at::Tensor space = unwritten({gpu::rms_norm_backward_workspace(m, c)}, at::kFloat);
      with_kernel_type(type, "test", [&](auto element) {
        using T = decltype(element);
        kernels::rms_norm<T>(data<T>(x), data<float>(w), m, c, eps, data<T>(y),
                             data<float>(inverse), IsaLevel::kScalar);
        kernels::rms_norm_backward<T>(data<T>(grad), data<T>(x), data<float>(w),
                                      data<float>(inverse), data<T>(residual), m, c,
                                      data<T>(grad_x), data<float>(grad_w), IsaLevel::kScalar);
        gpu::add_rms_norm<T>(data<T>(dx), nullptr, data<float>(dw), eps, m, c, nullptr,
                             data<T>(got_y), data<float>(got_inverse), current_stream());
        gpu::rms_norm_backward<T>(nullptr, nullptr, data<T>(dgrad), data<T>(dx), data<float>(dw),
                                  data<float>(got_inverse), data<T>(dres), m, c, data<T>(got_x),
                                  data<float>(got_w), data<float>(space), current_stream());
      });
      const std::string what = fmt::format("C={} {}", c, at::toString(type));
      // Sums of C terms in float against double, then one rounding to the type.
      const double sums = 8 * std::sqrt(static_cast<double>(c)) * 0x1p-24 + 8 * 0x1p-24;
      const double one = testing::rounding_error(type) * 2 + sums;
      expect_within(got_inverse.cpu(), inverse, inverse.abs() * sums, what + " inverse");
      expect_within(got_y.cpu(), y, y.abs().to(at::kDouble) * one, what + " y");
      const at::Tensor scale = (grad.to(at::kDouble).abs() * w.abs() + 1) *
                               inverse.to(at::kDouble).unsqueeze(1) * (1 + x.to(at::kDouble).abs());
      expect_within(got_x.cpu(), grad_x, grad_x.to(at::kDouble).abs() * one + scale * sums * 4,
                    what + " grad_x");
      expect_within(got_w.cpu(), grad_w, 1e-4, what + " grad_w");
    }
  }
}

TEST_F(CudaKernels, SwigluIsWithinRoundingOfTheDefinition) {
  for (const int64_t f : {1, 31, 33, 257, 640, 5632}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const int64_t m = 5;
      const at::Tensor gate_up = (normal({m, 2 * f}, 1) * 4).to(type),
                       grad = normal({m, f}, 2, type);
      gate_up[0].fill_(-200);  // exp overflows
      gate_up[1].fill_(200);
      const at::Tensor y = at::empty({m, f}, type), grad_in = at::empty_like(gate_up);
      const at::Tensor dg = gate_up.cuda(), dgrad = grad.cuda();
      const at::Tensor got = unwritten({m, f}, type), got_in = unwritten({m, 2 * f}, type);
      with_kernel_type(type, "test", [&](auto element) {
        using T = decltype(element);
        kernels::swiglu<T>(data<T>(gate_up), m, f, data<T>(y), IsaLevel::kScalar);
        kernels::swiglu_backward<T>(data<T>(grad), data<T>(gate_up), m, f, data<T>(grad_in),
                                    IsaLevel::kScalar);
        gpu::swiglu<T>(data<T>(dg), m, f, data<T>(got), current_stream());
        gpu::swiglu_backward<T>(nullptr, nullptr, data<T>(dgrad), data<T>(dg), m, f,
                                data<T>(got_in), current_stream());
      });
      const std::string what = fmt::format("F={} {}", f, at::toString(type));
      const double one = 2 * testing::rounding_error(type) + 64 * 0x1p-24;
      expect_within(got.cpu(), y, y.to(at::kDouble).abs() * one + 1e-30, what);
      const at::Tensor g = gate_up.to(at::kDouble).abs() + 1;
      const at::Tensor size = at::cat({g.narrow(1, f, f), g.narrow(1, 0, f)}, 1) *
                              at::cat({grad, grad}, 1).to(at::kDouble).abs();
      expect_within(got_in.cpu(), grad_in,
                    grad_in.to(at::kDouble).abs() * one + size * (64 * 0x1p-24),
                    what + " gradient");
    }
  }
}

TEST_F(CudaKernels, RopeHasTheBitsOfTheDefinition) {
  for (const auto& [heads, kv, d] :
       {std::array<int64_t, 3>{4, 4, 64}, {6, 2, 32}, {3, 1, 16}, {2, 2, 6}, {5, 5, 128}}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const int64_t tokens = 11, rows = 22, start = 3, width = (heads + 2 * kv) * d;
      const at::Tensor x = normal({rows, width}, 1, type), cos = normal({16, d / 2}, 2, at::kFloat);
      const at::Tensor sin = normal({16, d / 2}, 3, at::kFloat);
      std::vector<int32_t> late, early;
      for (int64_t r = 0; r < rows; ++r) {
        early.push_back(static_cast<int32_t>(r % tokens));
        late.push_back(static_cast<int32_t>(start + r % tokens));
      }
      const at::Tensor forward = x.clone(), back = x.clone(), got = x.cuda();
      const at::Tensor dc = cos.cuda(), ds = sin.cuda();
      const at::Tensor q = x.narrow(1, 0, heads * d).contiguous().cuda();
      const at::Tensor k = x.narrow(1, heads * d, kv * d).contiguous().cuda();
      const at::Tensor v = x.narrow(1, (heads + kv) * d, kv * d).contiguous().cuda();
      const at::Tensor gathered = unwritten({rows, width}, type);
      with_kernel_type(type, "test", [&](auto element) {
        using T = decltype(element);
        kernels::rope<T>(data<T>(forward), rows, width, heads + kv, d, data<float>(cos),
                         data<float>(sin), late.data(), +1, IsaLevel::kScalar);
        kernels::rope<T>(data<T>(back), rows, width, heads + kv, d, data<float>(cos),
                         data<float>(sin), early.data(), -1, IsaLevel::kScalar);
        gpu::rope<T>(data<T>(got), rows, width, heads + kv, d, tokens, start, data<float>(dc),
                     data<float>(ds), current_stream());
        gpu::rope_backward_qkv<T>(data<T>(q), data<T>(k), data<T>(v), rows, heads, kv, d, tokens,
                                  data<float>(dc), data<float>(ds), data<T>(gathered),
                                  current_stream());
      });
      const std::string what =
          fmt::format("{} + {} heads of {} {}", heads, kv, d, at::toString(type));
      expect_same_bits(got, forward, what);
      expect_same_bits(gathered, back, what + " backward");
    }
  }
}

// cuDNN's, LibTorch's flash and the plain attention, with their gradients, against the CPU in
// double.
TEST_F(CudaKernels, AttentionIsThatOfTheDefinitionByEveryWay) {
  for (const bool same_bits : {false, true}) {
    at::globalContext().setDeterministicAlgorithms(same_bits, /*warn_only=*/true);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    for (const auto& [heads, kv, d] :
         {std::array<int64_t, 3>{4, 4, 64}, {4, 2, 32}, {2, 2, 128}, {3, 3, 20}}) {
      for (const int64_t tokens : {1, 2, 33, 64, 300}) {
        for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
          const AttentionShape shape{heads, kv, d};
          const int64_t width = (heads + 2 * kv) * d;
          const at::Tensor qkv = normal({2, tokens, width}, 1, type);
          const at::Tensor grad = normal({2, tokens, heads * d}, 2, type);
          const at::Tensor angle = normal({tokens, d / 2}, 3, at::kFloat);
          const at::Tensor cos = angle.cos(), sin = angle.sin();
          const at::Tensor exact = testing::leaf(qkv, at::kDouble);
          const at::Tensor expected = causal_self_attention(exact, cos, sin, shape);
          expected.backward(grad.to(at::kDouble));
          const at::Tensor x = qkv.cuda().requires_grad_(true);
          const at::Tensor got = causal_self_attention(x * 1.0, cos.cuda(), sin.cuda(), shape);
          got.backward(grad.cuda());
          const double bound = type == at::kFloat ? 1e-5 : 1e-2;
          const std::string what = fmt::format("{}+{} heads of {}, T={} {} {}", heads, kv, d,
                                               tokens, at::toString(type), same_bits);
          EXPECT_LT(testing::relative_error(got.cpu(), expected), bound) << what;
          EXPECT_LT(testing::relative_error(x.grad().cpu(), exact.grad()), 2 * bound) << what;
        }
      }
    }
  }
  at::globalContext().setDeterministicAlgorithms(false, false);
}

}  // namespace
}  // namespace quest::ops
