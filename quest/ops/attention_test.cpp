#include "quest/ops/attention.h"

#include <cmath>
#include <limits>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include "quest/base/cpu_features.h"
#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

using testing::as_double;
using testing::leaf;
using testing::normal;

struct Tables {
  at::Tensor cos, sin;
};

Tables tables(int64_t positions, int64_t head_dim) {
  Tables t{at::empty({positions, head_dim / 2}, at::kFloat),
           at::empty({positions, head_dim / 2}, at::kFloat)};
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      const double angle =
          static_cast<double>(p) *
          std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
      t.cos[p][i] = std::cos(angle);
      t.sin[p][i] = std::sin(angle);
    }
  }
  return t;
}

// Rotary embedding and attention by loops over positions, heads and channels, in double.
at::Tensor by_loops(const at::Tensor& qkv, const Tables& t, const AttentionShape& s) {
  const int64_t batch = qkv.size(0), length = qkv.size(1), d = s.head_dim, half = d / 2;
  at::Tensor rotated = qkv.clone(), out = at::zeros({batch, length, s.heads * d}, at::kDouble);
  const auto in = qkv.accessor<double, 3>();
  auto r = rotated.accessor<double, 3>(), o = out.accessor<double, 3>();
  const auto cos = t.cos.accessor<float, 2>(), sin = t.sin.accessor<float, 2>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t p = 0; p < length; ++p) {
      for (int64_t h = 0; h < s.heads + s.kv_heads; ++h) {
        for (int64_t i = 0; i < half; ++i) {
          const double x = in[b][p][h * d + i], y = in[b][p][h * d + half + i];
          r[b][p][h * d + i] = x * cos[p][i] - y * sin[p][i];
          r[b][p][h * d + half + i] = y * cos[p][i] + x * sin[p][i];
        }
      }
    }
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t kv = h / (s.heads / s.kv_heads);
      const int64_t k0 = (s.heads + kv) * d, v0 = (s.heads + s.kv_heads + kv) * d;
      for (int64_t p = 0; p < length; ++p) {
        double total = 0;
        for (int64_t q = 0; q <= p; ++q) {
          double score = 0;
          for (int64_t i = 0; i < d; ++i) score += r[b][p][h * d + i] * r[b][q][k0 + i];
          const double weight = std::exp(score / std::sqrt(static_cast<double>(d)));
          total += weight;
          for (int64_t i = 0; i < d; ++i) o[b][p][h * d + i] += weight * r[b][q][v0 + i];
        }
        for (int64_t i = 0; i < d; ++i) o[b][p][h * d + i] /= total;
      }
    }
  }
  return out;
}

struct Case {
  int64_t batch, length;
  AttentionShape shape;
};
const Case kCases[] = {{2, 1, {1, 1, 2}},
                       {2, 7, {3, 3, 10}},
                       {1, 33, {4, 2, 16}},
                       {2, 65, {6, 1, 32}},
                       {1, 129, {2, 2, 64}}};

at::Tensor random_qkv(const Case& c, uint64_t seed) {
  return normal({c.batch, c.length, (c.shape.heads + 2 * c.shape.kv_heads) * c.shape.head_dim},
                seed);
}

at::Tensor random_grad(const Case& c) {
  return normal({c.batch, c.length, c.shape.heads * c.shape.head_dim}, 2);
}

struct Result {
  at::Tensor y, grad;
};

Result run(const Case& c, const at::Tensor& qkv, const at::Tensor& grad_y, at::ScalarType type) {
  const Tables t = tables(c.length, c.shape.head_dim);
  const at::Tensor x = leaf(qkv, type);
  // As in a model, the matrix is a result: its memory is reused.
  const at::Tensor y = causal_self_attention(x * 1, t.cos, t.sin, c.shape);
  y.backward(grad_y.to(type));
  return {y.detach(), x.grad()};
}

TEST(Attention, DoubleIsTheDefinition) {
  for (const Case& c : kCases) {
    const at::Tensor qkv = random_qkv(c, 1);
    const Result actual = run(c, qkv, random_grad(c), at::kDouble);
    testing::expect_within(actual.y, by_loops(qkv, tables(c.length, c.shape.head_dim), c.shape),
                           1e-12, "y");
  }
}

TEST(Attention, FiniteDifferences) {
  const Case c{2, 3, {4, 2, 4}};
  const at::Tensor qkv = random_qkv(c, 1), grad_y = random_grad(c);
  const Result actual = run(c, qkv, grad_y, at::kDouble);
  const Tables t = tables(c.length, c.shape.head_dim);
  const auto f = [&] { return (by_loops(qkv, t, c.shape) * grad_y).sum().item<double>(); };
  testing::expect_within(actual.grad, testing::numeric_gradient(f, qkv), 1e-8, "gradient");
}

// 2 where sums are of pieces and six times as long, which about doubles their error in the mean.
double error_of_sums(at::ScalarType type, const AttentionShape& shape) {
  return attention_plan(type, shape).find("pieces") != std::string::npos ? 2 : 1;
}

// Errors of the scores (rounded factors, sums over D) become relative errors of the weights, whose
// products with v are summed over T.
TEST(Attention, KernelsAgreeWithDouble) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const Case& c : kCases) {
      SCOPED_TRACE(fmt::format("{} T={} H={} G={} D={}", at::toString(type), c.length,
                               c.shape.heads, c.shape.kv_heads, c.shape.head_dim));
      const at::Tensor qkv = as_double(random_qkv(c, 1).to(type));
      const at::Tensor grad_y = as_double(random_grad(c).to(type));
      const Result expected = run(c, qkv, grad_y, at::kDouble);
      const Result actual = run(c, qkv, grad_y, type);
      ASSERT_EQ(actual.y.scalar_type(), type);
      ASSERT_EQ(actual.grad.scalar_type(), type);
      const double u = testing::rounding_error(type);
      const auto d = static_cast<double>(c.shape.head_dim), t = static_cast<double>(c.length);
      const double largest = qkv.abs().max().item<double>();
      const double sums = (d + t + 16) * 0x1p-24 + 4 * u;
      const double score = std::sqrt(d) * 4;  // 4 standard deviations of q k / sqrt(D)
      testing::expect_within(actual.y, expected.y, sums * (1 + score) * largest, "y");
      // In the mean, errors of random sign cancel: the sharper statement. About 4 roundings to the
      // type lie on the way of an output, 8 on that of a gradient.
      const double roundings = 4 * error_of_sums(type, c.shape);
      EXPECT_LT(testing::relative_error(actual.y, expected.y), roundings * u);
      EXPECT_LT(testing::relative_error(actual.grad, expected.grad), 2 * roundings * u);
    }
  }
}

TEST(Attention, CachedIsUncached) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const Case& c : kCases) {
      SCOPED_TRACE(fmt::format("{} T={} H={} G={} D={}", at::toString(type), c.length,
                               c.shape.heads, c.shape.kv_heads, c.shape.head_dim));
      const at::Tensor qkv = random_qkv(c, 1).to(type);
      const int64_t capacity = c.length + 3;
      const Tables t = tables(capacity, c.shape.head_dim);
      const at::Tensor whole = causal_self_attention(qkv.clone(), t.cos, t.sin, c.shape);
      for (const int64_t piece : {int64_t{1}, int64_t{4}, c.length}) {
        if (c.length / piece > 70) continue;  // seconds, and shorter cases have it
        at::Tensor k = at::zeros({c.batch, c.shape.kv_heads, capacity, c.shape.head_dim}, type);
        at::Tensor v = k.clone();
        // What is beyond the end must not be read.
        k.fill_(std::numeric_limits<double>::quiet_NaN());
        v.fill_(std::numeric_limits<double>::quiet_NaN());
        std::vector<at::Tensor> parts;
        for (int64_t start = 0; start < c.length; start += piece) {
          const int64_t n = std::min(piece, c.length - start);
          parts.push_back(cached_self_attention(qkv.narrow(1, start, n).clone(), t.cos, t.sin,
                                                c.shape, k, v, start));
        }
        const double u = testing::rounding_error(type);
        EXPECT_LT(testing::relative_error(at::cat(parts, 1), whole),
                  8 * error_of_sums(type, c.shape) * u)
            << piece;
        EXPECT_TRUE(k.narrow(2, c.length, 3).isnan().all().item<bool>());
      }
    }
  }
}

// Where a query attends to one key only, its gradient and that of the key vanish.
TEST(Attention, FirstPositionSeesOnlyItself) {
  const Case c{1, 5, {2, 1, 8}};
  const at::Tensor qkv = random_qkv(c, 1);
  const Result actual = run(c, qkv, random_grad(c), at::kFloat);
  const at::Tensor v = qkv.narrow(2, 24, 8)[0][0];
  testing::expect_within(actual.y[0][0], at::cat({v, v}), 1e-6, "y");
  testing::expect_within(actual.grad[0][0].narrow(0, 0, 16), at::zeros({16}, at::kDouble), 1e-6,
                         "q");
}

// Scores depend on distances alone: attention over a window does not change when it moves.
TEST(Attention, RotationIsRelative) {
  const Case c{1, 6, {2, 2, 16}};
  const at::Tensor qkv = random_qkv(c, 1).to(at::kFloat);
  const Tables all = tables(40, 16);
  const Tables moved{all.cos.narrow(0, 29, 11).contiguous(),
                     all.sin.narrow(0, 29, 11).contiguous()};
  const at::Tensor here = causal_self_attention(qkv.clone(), all.cos, all.sin, c.shape);
  const at::Tensor there = causal_self_attention(qkv.clone(), moved.cos, moved.sin, c.shape);
  testing::expect_within(there, here, 1e-5, "moved");
}

TEST(Attention, PlanSaysWhatRuns) {
  const IsaLevel level = isa_level();
  const bool tiles = level >= IsaLevel::kAvx512Vnni && cpu_features().avx512bf16;
  EXPECT_EQ(attention_plan(at::kBFloat16, {4, 2, 64}), !tiles ? "LibTorch's flash attention"
                                                       : level >= IsaLevel::kAmx
                                                           ? "AMX tiles"
                                                           : "AVX512-BF16 tiles");
  EXPECT_EQ(attention_plan(at::kBFloat16, {4, 2, 80}), "LibTorch's flash attention");
  EXPECT_EQ(attention_plan(at::kFloat, {4, 2, 64}),
            level >= IsaLevel::kAmx && cpu_features().avx512bf16
                ? "AMX tiles, FP32 values as three bfloat16 pieces"
                : "LibTorch's flash attention");
  EXPECT_EQ(attention_plan(at::kFloat, {4, 2, 80}), "LibTorch's flash attention");
  EXPECT_EQ(attention_plan(at::kDouble, {4, 2, 64}), "the definition");
}

void expect_the_same_bits(at::ScalarType type) {
  const Case c{2, 200, {4, 2, 64}};
  const int before = at::get_num_threads();
  std::vector<Result> results;
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    results.push_back(run(c, random_qkv(c, 1), random_grad(c), type));
  }
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(results[0].y, results[1].y));
  EXPECT_TRUE(at::equal(results[0].grad, results[1].grad));
}

bool runs_on_tiles(at::ScalarType type) {
  return attention_plan(type, {4, 2, 64}).find("tiles") != std::string::npos;
}

TEST(Attention, TilesGiveTheSameBitsForAnyNumberOfThreads) {
  if (!runs_on_tiles(at::kBFloat16)) GTEST_SKIP() << "this CPU has neither AMX nor AVX512-BF16";
  expect_the_same_bits(at::kBFloat16);
}

TEST(Attention, TilesGiveTheSameFp32BitsForAnyNumberOfThreads) {
  if (!runs_on_tiles(at::kFloat)) GTEST_SKIP() << "this CPU has no AMX";
  expect_the_same_bits(at::kFloat);
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const AttentionShape shape{4, 2, 8};
  const Tables t = tables(10, 8);
  EXPECT_QUEST_ERROR(causal_self_attention(normal({1, 5, 63}, 1, at::kFloat), t.cos, t.sin, shape),
                     ErrorKind::kUsage, "63 columns");
  EXPECT_QUEST_ERROR(causal_self_attention(normal({5, 64}, 1, at::kFloat), t.cos, t.sin, shape),
                     ErrorKind::kUsage, "qkv");
  EXPECT_QUEST_ERROR(causal_self_attention(normal({1, 11, 64}, 1, at::kFloat), t.cos, t.sin, shape),
                     ErrorKind::kUsage, "11 positions, the rotary table has 10");
  at::Tensor k = at::zeros({1, 2, 6, 8}, at::kFloat), v = k.clone();
  EXPECT_QUEST_ERROR(
      cached_self_attention(normal({1, 3, 64}, 1, at::kFloat), t.cos, t.sin, shape, k, v, 4),
      ErrorKind::kUsage, "cache holds 6");
}

}  // namespace
}  // namespace quest::ops
