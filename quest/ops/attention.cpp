#include "quest/ops/attention.h"

#include <optional>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quest/kernels/attention.h"
#include "quest/kernels/cuda/rope.h"
#include "quest/kernels/rope.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"

namespace quest::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rotates q and k inside qkv (B, T, (H + 2G) D) in place; row (b, t) has position start + t.
void rotate_in_place(const at::Tensor& qkv, const at::Tensor& cos, const at::Tensor& sin,
                     const AttentionShape& shape, int64_t start, int direction) {
  const int64_t t_count = qkv.size(1), rows = qkv.size(0) * t_count, stride = qkv.size(2);
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row) {
    positions[static_cast<size_t>(row)] = static_cast<int32_t>(start + row % t_count);
  }
  with_kernel_type(qkv.scalar_type(), "rope", [&](auto element) {
    using T = decltype(element);
    parallel_rows(rows, stride, [&](int64_t begin, int64_t end) {
      kernels::rope<T>(data<T>(qkv) + begin * stride, end - begin, stride,
                       shape.heads + shape.kv_heads, shape.head_dim, data<float>(cos),
                       data<float>(sin), positions.data() + begin, direction);
    });
  });
}

// (B, heads, T, D) view of the heads that start at head `first`.
at::Tensor heads_view(const at::Tensor& qkv, int64_t first, int64_t heads, int64_t head_dim) {
  return qkv.view({qkv.size(0), qkv.size(1), -1, head_dim}).narrow(2, first, heads).transpose(1, 2);
}

struct Heads {
  at::Tensor q, k, v;  // (B, H, T, D); with fewer key-value heads, k and v are repeated
};

Heads split_heads(const at::Tensor& qkv, const AttentionShape& shape) {
  const int64_t h = shape.heads, g = shape.kv_heads, d = shape.head_dim;
  Heads heads{heads_view(qkv, 0, h, d), heads_view(qkv, h, g, d), heads_view(qkv, h + g, g, d)};
  if (h != g) {
    heads.k = heads.k.repeat_interleave(h / g, 1);
    heads.v = heads.v.repeat_interleave(h / g, 1);
  }
  return heads;
}

// Gradient of repeat_interleave: sums the copies of each key-value head.
at::Tensor sum_repeats(const at::Tensor& grad, const AttentionShape& shape) {
  if (shape.heads == shape.kv_heads) {
    return grad;
  }
  const int64_t repeats = shape.heads / shape.kv_heads;
  return grad.view({grad.size(0), shape.kv_heads, repeats, grad.size(2), grad.size(3)}).sum(2);
}

// What the forward pass keeps.
struct Attended {
  at::Tensor out;        // (B, T, H D)
  at::Tensor logsumexp;  // (B, H, T) float, of the scaled scores
};

Attended attend_libtorch(const at::Tensor& qkv, const AttentionShape& shape) {
  const Heads heads = split_heads(qkv, shape);
  const auto [out, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
      heads.q, heads.k, heads.v, /*dropout_p=*/0.0, /*is_causal=*/true);
  return {out.transpose(1, 2).reshape({qkv.size(0), qkv.size(1), shape.heads * shape.head_dim}),
          logsumexp};
}

// Gradient of the rotated qkv.
at::Tensor differentiate_libtorch(const at::Tensor& qkv, const AttentionShape& shape,
                                  const Attended& kept, const at::Tensor& grad_out) {
  const int64_t h = shape.heads, g = shape.kv_heads, d = shape.head_dim;
  const Heads heads = split_heads(qkv, shape);
  auto [grad_q, grad_k, grad_v] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      heads_view(grad_out, 0, h, d), heads.q, heads.k, heads.v, heads_view(kept.out, 0, h, d),
      kept.logsumexp, 0.0, true);
  at::Tensor grad_qkv = at::empty_like(qkv);
  heads_view(grad_qkv, 0, h, d).copy_(grad_q);
  heads_view(grad_qkv, h, g, d).copy_(sum_repeats(grad_k, shape));
  heads_view(grad_qkv, h + g, g, d).copy_(sum_repeats(grad_v, shape));
  return grad_qkv;
}

// The version of the kernels that these values go through; null: LibTorch's attention. FP32 has one
// on AMX alone: on vectors, its six products of pieces are slower than LibTorch's FP32 ones.
const char* tiles_version(at::ScalarType type, const AttentionShape& shape) {
  if (type == at::kBFloat16) return kernels::attention_version<bfloat16>(shape.head_dim);
  if (type == at::kFloat) return kernels::attention_version<float>(shape.head_dim);
  return nullptr;
}

bool uses_tiles(at::ScalarType type, const AttentionShape& shape) {
  return tiles_version(type, shape) != nullptr;
}

template <class T>
kernels::Attention<T> kernel_of(const at::Tensor& qkv, const AttentionShape& shape,
                                const Attended& kept) {
  return {qkv.size(0),    qkv.size(1),       shape.heads,
          shape.kv_heads, shape.head_dim,    data<T>(qkv),
          qkv.size(2),    data<T>(kept.out), data<float>(kept.logsumexp)};
}

Attended attend_tiles(const at::Tensor& qkv, const AttentionShape& shape) {
  const int64_t b = qkv.size(0), t = qkv.size(1);
  const at::TensorOptions options = qkv.options().requires_grad(false);
  const Attended kept{at::empty({b, t, shape.heads * shape.head_dim}, options),
                      at::empty({b, shape.heads, t}, options.dtype(at::kFloat))};
  if (kept.out.numel() == 0) return kept;
  with_kernel_type(qkv.scalar_type(), "attention", [&](auto element) {
    const auto attention = kernel_of<decltype(element)>(qkv, shape, kept);
    const kernels::AttentionPlan plan = kernels::plan_attention(attention, at::get_num_threads());
    parallel_tasks(plan.forward_tasks, [&](int64_t begin, int64_t end) {
      kernels::attention_forward(attention, plan, begin, end);
    });
  });
  return kept;
}

at::Tensor differentiate_tiles(const at::Tensor& qkv, const AttentionShape& shape,
                               const Attended& kept, const at::Tensor& grad_out) {
  at::Tensor grad_qkv = at::empty_like(qkv);
  if (grad_qkv.numel() == 0) return grad_qkv;
  with_kernel_type(qkv.scalar_type(), "attention", [&](auto element) {
    using T = decltype(element);
    const auto attention = kernel_of<T>(qkv, shape, kept);
    const kernels::AttentionPlan plan = kernels::plan_attention(attention, at::get_num_threads());
    const kernels::AttentionGrads<T> grads{data<T>(grad_out), data<T>(grad_qkv)};
    parallel_tasks(plan.backward_tasks, [&](int64_t begin, int64_t end) {
      kernels::attention_backward(attention, grads, begin, end);
    });
  });
  return grad_qkv;
}

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& cos,
                            const at::Tensor& sin, AttentionShape shape) {
    RECORD_USER_SCOPE("quest::attention");
    rotate_in_place(qkv, cos, sin, shape, 0, +1);
    const Attended kept = uses_tiles(qkv.scalar_type(), shape) ? attend_tiles(qkv, shape)
                                                               : attend_libtorch(qkv, shape);
    // The rotated matrix is saved detached: its memory is the input's, whose value nobody needs.
    ctx->save_for_backward({qkv.detach(), cos, sin, kept.out, kept.logsumexp});
    ctx->saved_data["shape"] = std::vector<int64_t>{shape.heads, shape.kv_heads, shape.head_dim};
    return kept.out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& qkv = saved[0];
    const Attended kept{saved[3], saved[4]};
    const auto sizes = ctx->saved_data["shape"].toIntVector();
    const AttentionShape shape{sizes[0], sizes[1], sizes[2]};
    const at::Tensor grad_out = grads[0].contiguous();
    const at::Tensor grad_qkv = uses_tiles(qkv.scalar_type(), shape)
                                    ? differentiate_tiles(qkv, shape, kept, grad_out)
                                    : differentiate_libtorch(qkv, shape, kept, grad_out);
    rotate_in_place(grad_qkv, saved[1], saved[2], shape, 0, -1);
    return {grad_qkv, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

void rotate_on_gpu(const at::Tensor& qkv, const at::Tensor& cos, const at::Tensor& sin,
                   const AttentionShape& shape, int64_t start) {
  const int64_t tokens = qkv.size(1);
  with_kernel_type(qkv.scalar_type(), "rope", [&](auto element) {
    using T = decltype(element);
    kernels::cuda::rope<T>(data<T>(qkv), qkv.size(0) * tokens, qkv.size(2),
                           shape.heads + shape.kv_heads, shape.head_dim, tokens, start,
                           data<float>(cos), data<float>(sin), current_stream());
  });
}

// (B, T, heads, D) view of the heads that start at head `first`.
at::Tensor rows_view(const at::Tensor& qkv, int64_t first, int64_t heads, int64_t head_dim) {
  return qkv.view({qkv.size(0), qkv.size(1), -1, head_dim}).narrow(2, first, heads);
}

bool gpu_wants_same_bits() { return at::globalContext().deterministicAlgorithms(); }

// Where same bits are wanted: LibTorch's flash attention takes its deterministic way only if others
// would be an error, which the program as a whole does not ask for.
class StrictlySameBits {
 public:
  StrictlySameBits() : warn_only_(at::globalContext().deterministicAlgorithmsWarnOnly()) {
    set(/*warn_only=*/false);
  }
  ~StrictlySameBits() { set(warn_only_); }
  StrictlySameBits(const StrictlySameBits&) = delete;
  StrictlySameBits& operator=(const StrictlySameBits&) = delete;

 private:
  static void set(bool warn_only) {
    if (gpu_wants_same_bits()) at::globalContext().setDeterministicAlgorithms(true, warn_only);
  }

  bool warn_only_;
};

// cuDNN takes no single key, key-value heads of their own only, and heads of up to 128.
bool gpu_uses_cudnn(const AttentionShape& shape, int64_t tokens) {
  return !gpu_wants_same_bits() && shape.heads == shape.kv_heads && tokens > 1 &&
         shape.head_dim <= 128;
}

// bfloat16 on a GPU, on views of the fused matrix: cuDNN's attention, or where the same bits are
// wanted every time, which its backward pass does not promise, LibTorch's flash attention.
class GpuAttentionFunction : public torch::autograd::Function<GpuAttentionFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& cos,
                            const at::Tensor& sin, AttentionShape shape) {
    RECORD_USER_SCOPE("quest::attention");
    const int64_t h = shape.heads, g = shape.kv_heads, d = shape.head_dim, t = qkv.size(1);
    rotate_on_gpu(qkv, cos, sin, shape, 0);
    ctx->saved_data["shape"] = std::vector<int64_t>{h, g, d};
    if (!gpu_uses_cudnn(shape, t)) {
      const auto [out, logsumexp, rng_state, unused, debug] = at::_flash_attention_forward(
          rows_view(qkv, 0, h, d), rows_view(qkv, h, g, d), rows_view(qkv, h + g, g, d), {}, {}, t,
          t, /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false);
      ctx->saved_data["flash"] = true;
      ctx->save_for_backward({qkv.detach(), cos, sin, out, logsumexp, rng_state, unused});
      return out.view({qkv.size(0), t, h * d});
    }
    const auto [out, logsumexp, cum_q, cum_k, max_q, max_k, seed, offset, debug] =
        at::_scaled_dot_product_cudnn_attention(
            heads_view(qkv, 0, h, d), heads_view(qkv, h, g, d), heads_view(qkv, h + g, g, d), {},
            // Also where no gradient follows: the same program each time a block is recomputed.
            /*compute_log_sumexp=*/true, /*dropout_p=*/0.0, /*is_causal=*/true);
    ctx->saved_data["flash"] = false;
    ctx->save_for_backward({qkv.detach(), cos, sin, out, logsumexp, seed, offset});
    return out.transpose(1, 2).reshape({qkv.size(0), t, h * d});
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& qkv = saved[0];
    const auto sizes = ctx->saved_data["shape"].toIntVector();
    const int64_t h = sizes[0], g = sizes[1], d = sizes[2], t = qkv.size(1);
    const at::Tensor grad = grads[0].contiguous().view({qkv.size(0), t, h, d});
    at::Tensor grad_q, grad_k, grad_v;  // (B, T, heads, D)
    if (ctx->saved_data["flash"].toBool()) {
      const StrictlySameBits strictly;
      std::tie(grad_q, grad_k, grad_v) = at::_flash_attention_backward(
          grad, rows_view(qkv, 0, h, d), rows_view(qkv, h, g, d), rows_view(qkv, h + g, g, d),
          saved[3], saved[4], {}, {}, t, t, 0.0, true, saved[5], saved[6]);
    } else {
      std::tie(grad_q, grad_k, grad_v) = at::_scaled_dot_product_cudnn_attention_backward(
          grad.transpose(1, 2), heads_view(qkv, 0, h, d), heads_view(qkv, h, g, d),
          heads_view(qkv, h + g, g, d), saved[3], saved[4], saved[5], saved[6], {}, {}, {}, t, t,
          0.0, true);
      for (at::Tensor* x : {&grad_q, &grad_k, &grad_v}) *x = x->transpose(1, 2);
    }
    at::Tensor grad_qkv = at::empty_like(qkv);
    with_kernel_type(qkv.scalar_type(), "rope", [&](auto element) {
      using T = decltype(element);
      const at::Tensor q = grad_q.contiguous(), k = grad_k.contiguous(), v = grad_v.contiguous();
      kernels::cuda::rope_backward_qkv<T>(data<T>(q), data<T>(k), data<T>(v), qkv.size(0) * t, h, g,
                                          d, t, data<float>(saved[1]), data<float>(saved[2]),
                                          data<T>(grad_qkv), current_stream());
    });
    return {grad_qkv, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

bool gpu_fuses_attention(at::ScalarType type, const AttentionShape& shape) {
  return type == at::kBFloat16 && shape.head_dim % 8 == 0 && shape.head_dim <= 128;
}

// x (B, heads, T, D) rotated from position start on, by plain differentiable operations, for
// double.
at::Tensor rotate_by_definition(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                                int64_t start) {
  const int64_t t = x.size(2), half = x.size(3) / 2;
  const at::Tensor c = cos.narrow(0, start, t).to(x.scalar_type());
  const at::Tensor s = sin.narrow(0, start, t).to(x.scalar_type());
  const at::Tensor first = x.narrow(-1, 0, half), second = x.narrow(-1, half, half);
  return at::cat({first * c - second * s, second * c + first * s}, -1);
}

at::Tensor attention_by_definition(const at::Tensor& qkv, const at::Tensor& cos,
                                   const at::Tensor& sin, const AttentionShape& shape) {
  const Heads heads = split_heads(qkv, shape);
  const at::Tensor q = rotate_by_definition(heads.q, cos, sin, 0);
  const at::Tensor k = rotate_by_definition(heads.k, cos, sin, 0);
  // On a GPU not LibTorch's fused FP32 kernel: its gradient's bits change from run to run.
  const at::Tensor out =
      qkv.is_cuda() ? std::get<0>(at::_scaled_dot_product_attention_math(q, k, heads.v, {}, 0.0,
                                                                         /*is_causal=*/true))
                    : at::scaled_dot_product_attention(q, k, heads.v, {}, 0.0, true);
  return out.transpose(1, 2).reshape({qkv.size(0), qkv.size(1), shape.heads * shape.head_dim});
}

void check_shapes(const at::Tensor& qkv, const at::Tensor& cos, const AttentionShape& shape,
                  int64_t positions) {
  QUEST_CHECK(qkv.dim() == 3 && qkv.size(2) == (shape.heads + 2 * shape.kv_heads) * shape.head_dim,
              ErrorKind::kUsage,
              "[attention] qkv has {} columns, {} heads + 2 x {} of size {} need {}", qkv.size(-1),
              shape.heads, shape.kv_heads, shape.head_dim,
              (shape.heads + 2 * shape.kv_heads) * shape.head_dim);
  QUEST_CHECK(positions <= cos.size(0), ErrorKind::kUsage,
              "[attention] {} positions, the rotary table has {}; raise max_position_embeddings or "
              "shorten the sequence",
              positions, cos.size(0));
}

}  // namespace

at::Tensor causal_self_attention(const at::Tensor& qkv, const at::Tensor& cos,
                                 const at::Tensor& sin, const AttentionShape& shape) {
  check_shapes(qkv, cos, shape, qkv.size(1));
  if (qkv.is_cuda() && gpu_fuses_attention(qkv.scalar_type(), shape)) {
    return GpuAttentionFunction::apply(qkv.contiguous(), cos, sin, shape);
  }
  if (qkv.scalar_type() == at::kDouble || qkv.is_cuda()) {
    return attention_by_definition(qkv, cos, sin, shape);
  }
  return AttentionFunction::apply(qkv.contiguous(), cos, sin, shape);
}

at::Tensor cached_self_attention(const at::Tensor& qkv, const at::Tensor& cos,
                                 const at::Tensor& sin, const AttentionShape& shape,
                                 at::Tensor& k_cache, at::Tensor& v_cache, int64_t start) {
  const int64_t t = qkv.size(1), end = start + t;
  check_shapes(qkv, cos, shape, end);
  QUEST_CHECK(end <= k_cache.size(2), ErrorKind::kUsage,
              "[attention] {} positions, the key-value cache holds {}", end, k_cache.size(2));
  const at::NoGradGuard no_grad;
  const at::Tensor rows = qkv.contiguous();
  const int64_t h = shape.heads, g = shape.kv_heads, d = shape.head_dim;
  at::Tensor q = heads_view(rows, 0, h, d), k = heads_view(rows, h, g, d);
  if (rows.is_cuda() && rows.scalar_type() != at::kDouble) {
    rotate_on_gpu(rows, cos, sin, shape, start);
  } else if (rows.scalar_type() == at::kDouble) {
    q = rotate_by_definition(q, cos, sin, start);
    k = rotate_by_definition(k, cos, sin, start);
  } else {
    rotate_in_place(rows, cos, sin, shape, start, +1);
  }
  k_cache.narrow(2, start, t).copy_(k);
  v_cache.narrow(2, start, t).copy_(heads_view(rows, h + g, g, d));
  // Query i sees keys 0 .. start + i. A mask only where it takes one: cuDNN reads masks four bytes
  // at a time, and so beyond the end of those with an odd number of bfloat16 values.
  std::optional<at::Tensor> visible;
  if (t > 1 && start > 0) {
    visible = at::ones({t, end}, rows.options().dtype(at::kBool)).tril(start);
  }
  const at::Tensor out = at::scaled_dot_product_attention(
      q, k_cache.narrow(2, 0, end), v_cache.narrow(2, 0, end), visible, /*dropout_p=*/0.0,
      /*is_causal=*/t > 1 && start == 0, std::nullopt, /*enable_gqa=*/h != g);
  return out.transpose(1, 2).reshape({rows.size(0), t, h * d});
}

at::Tensor rotated_self_attention(const at::Tensor& qkv, const AttentionShape& shape) {
  const int64_t h = shape.heads, g = shape.kv_heads, d = shape.head_dim, t = qkv.size(1);
  const at::NoGradGuard no_grad;
  if (gpu_uses_cudnn(shape, t)) {
    const at::Tensor out = std::get<0>(at::_scaled_dot_product_cudnn_attention(
        heads_view(qkv, 0, h, d), heads_view(qkv, h, g, d), heads_view(qkv, h + g, g, d), {},
        /*compute_log_sumexp=*/false, /*dropout_p=*/0.0, /*is_causal=*/true));
    return out.transpose(1, 2).reshape({qkv.size(0), t, h * d});
  }
  return rotated_attention_to(rows_view(qkv, 0, h, d), rows_view(qkv, h, g, d),
                              rows_view(qkv, h + g, g, d));
}

at::Tensor rotated_attention_to(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const at::NoGradGuard no_grad;
  const int64_t t = q.size(1);
  return std::get<0>(at::_flash_attention_forward(q, k, v, {}, {}, t, k.size(1),
                                                  /*dropout_p=*/0.0, /*is_causal=*/true,
                                                  /*return_debug_mask=*/false))
      .reshape({q.size(0), t, q.size(2) * q.size(3)});
}

std::string attention_plan(at::ScalarType type, const AttentionShape& shape,
                           at::DeviceType device) {
  if (device == at::kCUDA) {
    if (!gpu_fuses_attention(type, shape)) return "LibTorch's attention of plain operations";
    return gpu_uses_cudnn(shape, 2) ? "cuDNN's attention" : "LibTorch's flash attention";
  }
  if (type == at::kDouble) return "the definition";
  const char* version = tiles_version(type, shape);
  return version != nullptr ? version : "LibTorch's flash attention";
}

}  // namespace quest::ops
