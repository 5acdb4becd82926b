#include "quest/kernels/attention.h"

#include <cmath>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/kernels/attention_levels.h"
#include "quest/kernels/float_kernels_testing.h"
#ifdef __x86_64__
#include "quest/kernels/emulated_attention_testing.h"
#include "quest/kernels/x86/attention_amx_kernel.h"
#endif

namespace quest::kernels {
namespace {

using testing::random_values;

struct Case {
  int64_t batch, length, heads, kv_heads, head_dim;
};

std::string text(const Case& c) {
  return fmt::format("B={} T={} H={} G={} D={}", c.batch, c.length, c.heads, c.kv_heads,
                     c.head_dim);
}

// Lengths around blocks of 32 and 64; more than one chunk of keys forward (512) and square of the
// backward pass (256).
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {{1, 1, 1, 1, 32},    {2, 1, 2, 1, 64},   {2, 31, 2, 2, 32},
                                        {1, 33, 5, 1, 64},   {2, 65, 4, 2, 32},  {1, 65, 1, 1, 96},
                                        {1, 129, 2, 1, 128}, {2, 129, 3, 3, 32}, {1, 300, 2, 1, 32},
                                        {1, 610, 1, 1, 32}};
  return all;
}

constexpr double kFloat = 0x1p-24;
constexpr double kDenormals = 1e-34;  // taken as zero in sums
constexpr double kExpError = 3e-7;    // of 2^x

template <class T>
double at(const std::vector<T>& values, int64_t i) {
  return static_cast<float>(values[static_cast<size_t>(i)]);
}

// Inputs with space behind each row of qkv, outputs filled with NaN, exact results.
template <class T>
class Problem {
  static constexpr double kRounding = testing::rounding_error<T>();  // of P, dS and the results
  // FP32 values are multiplied as pieces, in sums that are so many times as long.
  static constexpr double kProducts = std::is_same_v<T, float> ? 6 : 1;

 public:
  explicit Problem(const Case& c, double spread = 1) : case_(c) {
    const int64_t rows = c.batch * c.length;
    qkv_ = random_values<T>(rows * stride(), 1, spread);
    grad_out_ = random_values<T>(rows * c.heads * c.head_dim, 2);
    const T nan(std::nanf(""));
    out_.assign(grad_out_.size(), nan);
    grad_qkv_.assign(qkv_.size(), nan);
    logsumexp_.assign(static_cast<size_t>(rows * c.heads), std::nanf(""));
    exact_out_.resize(out_.size());
    exact_logsumexp_.resize(logsumexp_.size());
    exact_grad_.resize(qkv_.size());
    attention_reference(attention(), exact_out_.data(), exact_logsumexp_.data());
    attention_backward_reference(attention(), grad_out_.data(), exact_grad_.data());
  }

  Attention<T> attention() {
    const Case& c = case_;
    return {c.batch,     c.length, c.heads,     c.kv_heads,       c.head_dim,
            qkv_.data(), stride(), out_.data(), logsumexp_.data()};
  }
  AttentionGrads<T> grads() { return {grad_out_.data(), grad_qkv_.data()}; }
  std::vector<T>& qkv() { return qkv_; }
  const std::vector<T>& out() const { return out_; }
  const std::vector<T>& grad_qkv() const { return grad_qkv_; }

  // Every value against its bound: the errors of its terms, added up.
  void check(const std::string& what) {
    out_error_.assign(out_.size(), kDenormals);
    grad_error_.assign(grad_qkv_.size(), kDenormals);
    for (int64_t b = 0; b < case_.batch; ++b) {
      for (int64_t h = 0; h < case_.heads; ++h) {
        for (int64_t i = 0; i < case_.length; ++i) add_errors_of_query(b, h, i, what);
      }
    }
    for (size_t i = 0; i < out_.size(); ++i) {
      ASSERT_LE(std::abs(static_cast<float>(out_[i]) - exact_out_[i]),
                out_error_[i] + kRounding * (std::abs(exact_out_[i]) + out_error_[i]))
          << what << ": out " << i;
    }
    for (size_t i = 0; i < grad_qkv_.size(); ++i) {
      if (static_cast<int64_t>(i) % stride() >= width()) {
        ASSERT_TRUE(std::isnan(static_cast<float>(grad_qkv_[i]))) << what << ": behind a row";
        continue;
      }
      ASSERT_LE(std::abs(static_cast<float>(grad_qkv_[i]) - exact_grad_[i]),
                grad_error_[i] + kRounding * (std::abs(exact_grad_[i]) + grad_error_[i]))
          << what << ": gradient " << i / stride() << ", " << i % stride();
    }
  }

  // In the mean, errors of random sign cancel: the sharper statement, for q, k and v apart. Of
  // FP32 it is the one that shows that no piece is missing (without the low ones: 2^-17 or so).
  void check_mean(const std::string& what) {
    constexpr double kBound = std::is_same_v<T, float> ? 1e-6 : kRounding;
    const auto error = [](const auto& actual, const std::vector<double>& exact, auto is_counted) {
      double difference = 0, size = 0;
      for (size_t i = 0; i < exact.size(); ++i) {
        if (!is_counted(static_cast<int64_t>(i))) continue;
        difference += std::pow(static_cast<float>(actual[i]) - exact[i], 2);
        size += exact[i] * exact[i];
      }
      return std::sqrt(difference / size);
    };
    EXPECT_LT(error(out_, exact_out_, [](int64_t) { return true; }), kBound) << what;
    if (case_.length == 1) return;  // gradients of q and k vanish
    const int64_t q = case_.heads * case_.head_dim, k = q + case_.kv_heads * case_.head_dim;
    for (const auto& [begin, end] : {std::pair{int64_t{0}, q}, {q, k}, {k, width()}}) {
      EXPECT_LT(error(grad_qkv_, exact_grad_,
                      [&, first = begin, last = end](int64_t i) {
                        return i % stride() >= first && i % stride() < last;
                      }),
                kBound)
          << what << ": gradient from column " << begin;
    }
  }

 private:
  int64_t width() const { return (case_.heads + 2 * case_.kv_heads) * case_.head_dim; }
  int64_t stride() const { return width() + 8; }

  void add_errors_of_query(int64_t b, int64_t h, int64_t i, const std::string& what) {
    const Case& c = case_;
    const int64_t d = c.head_dim, kv = c.heads + h / (c.heads / c.kv_heads);
    const double scale = 1 / std::sqrt(static_cast<double>(d));
    const double sums =
        kProducts * static_cast<double>(c.length * (c.heads / c.kv_heads) + d + 64) * kFloat;
    const int64_t q0 = (b * c.length + i) * stride() + h * d;
    const int64_t o0 = (b * c.length + i) * c.heads * d + h * d;
    const auto k0 = [&](int64_t j) { return (b * c.length + j) * stride() + kv * d; };
    const auto v0 = [&](int64_t j) { return k0(j) + c.kv_heads * d; };
    const double logsumexp =
        exact_logsumexp_[static_cast<size_t>((b * c.heads + h) * c.length + i)];
    // Scores first: their errors, all of the size of the largest one, are relative ones of P.
    std::vector<double> p(static_cast<size_t>(i + 1));
    double size = std::abs(logsumexp);
    for (int64_t j = 0; j <= i; ++j) {
      double score = 0, terms = 0;
      for (int64_t x = 0; x < d; ++x) {
        const double term = at(qkv_, q0 + x) * at(qkv_, k0(j) + x) * scale;
        score += term;
        terms += std::abs(term);
      }
      p[static_cast<size_t>(j)] = std::exp(score - logsumexp);
      size = std::max(size, terms);
    }
    const double score_error = kProducts * static_cast<double>(d + 8) * kFloat * size;
    // P from scores and their maximum or logsumexp, each with its error.
    const double p_error = 3 * score_error + 2 * kExpError + sums;
    const double logsumexp_error = score_error + kExpError + sums + 4 * kFloat * size;
    ASSERT_NEAR(logsumexp_[static_cast<size_t>((b * c.heads + h) * c.length + i)], logsumexp,
                logsumexp_error)
        << what << ": logsumexp of " << i;
    for (int64_t x = 0; x < d; ++x) {
      double terms = 0;
      for (int64_t j = 0; j <= i; ++j) terms += p[size_t(j)] * std::abs(at(qkv_, v0(j) + x));
      out_error_[static_cast<size_t>(o0 + x)] = (kRounding + p_error + sums) * terms;
    }
    // delta from the rounded out
    double delta = 0, delta_error = 0;
    for (int64_t x = 0; x < d; ++x) {
      const double g = at(grad_out_, o0 + x), y = exact_out_[static_cast<size_t>(o0 + x)];
      delta += g * y;
      delta_error += std::abs(g) *
                     (out_error_[static_cast<size_t>(o0 + x)] + (kRounding + sums) * std::abs(y));
    }
    for (int64_t j = 0; j <= i; ++j) {
      double dp = 0, dp_terms = 0;
      for (int64_t x = 0; x < d; ++x) {
        const double term = at(grad_out_, o0 + x) * at(qkv_, v0(j) + x);
        dp += term;
        dp_terms += std::abs(term);
      }
      const double weight = p[static_cast<size_t>(j)];
      const double ds = weight * std::abs(dp - delta);
      const double ds_error =
          (kRounding + p_error) * ds + weight * (1 + kRounding) * (sums * dp_terms + delta_error);
      for (int64_t x = 0; x < d; ++x) {
        const double q = std::abs(at(qkv_, q0 + x)), k = std::abs(at(qkv_, k0(j) + x));
        const double g = std::abs(at(grad_out_, o0 + x));
        grad_error_[static_cast<size_t>(q0 + x)] += scale * (ds_error + sums * ds) * k;
        grad_error_[static_cast<size_t>(k0(j) + x)] += scale * (ds_error + sums * ds) * q;
        grad_error_[static_cast<size_t>(v0(j) + x)] += (kRounding + p_error + sums) * weight * g;
      }
    }
  }

  Case case_;
  std::vector<T> qkv_, grad_out_, out_, grad_qkv_;
  std::vector<float> logsumexp_;
  std::vector<double> exact_out_, exact_logsumexp_, exact_grad_, out_error_, grad_error_;
};

// The definition's gradient is that of its output.
TEST(Attention, TheDefinitionAgreesWithFiniteDifferences) {
  const Case c{2, 4, 4, 2, 3};
  const int64_t width = (c.heads + 2 * c.kv_heads) * c.head_dim, rows = c.batch * c.length;
  std::vector<bfloat16> qkv = random_values<bfloat16>(rows * width, 1);
  const std::vector<bfloat16> grad_out = random_values<bfloat16>(rows * c.heads * c.head_dim, 2);
  std::vector<double> out(grad_out.size()), logsumexp(static_cast<size_t>(rows * c.heads));
  std::vector<double> grad(qkv.size());
  const Attention<bfloat16> attention{c.batch,    c.length, c.heads, c.kv_heads, c.head_dim,
                                      qkv.data(), width,    nullptr, nullptr};
  attention_backward_reference(attention, grad_out.data(), grad.data());
  const auto loss = [&] {
    attention_reference(attention, out.data(), logsumexp.data());
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * static_cast<float>(grad_out[i]);
    return sum;
  };
  for (size_t i = 0; i < qkv.size(); ++i) {
    // Steps between values of bfloat16: the quotient's error is of the size of their square.
    const bfloat16 before = qkv[i];
    const bfloat16 up(static_cast<float>(before) + 0x1p-5f),
        down(static_cast<float>(before) - 0x1p-5f);
    qkv[i] = up;
    const double above = loss();
    qkv[i] = down;
    const double below = loss();
    qkv[i] = before;
    const double step = static_cast<double>(static_cast<float>(up)) - static_cast<float>(down);
    ASSERT_NEAR(grad[i], (above - below) / step, 0.05 * std::abs(grad[i]) + 0.005) << i;
  }
}

// The real kernels that this CPU has, by their functions: run(problem, threads), tasks in two
// parts.
template <class T>
struct Version {
  std::string name;
  std::function<void(Problem<T>&, int threads)> run;
};

template <class T>
std::vector<Version<T>> versions() {
  std::vector<Version<T>> all;
  for (const IsaLevel level : available_isa_levels()) {
    if (!attention_supports<T>(32, level)) continue;
    all.push_back({attention_version<T>(32, level), [level](Problem<T>& problem, int threads) {
                     const Attention<T> a = problem.attention();
                     const AttentionPlan plan = plan_attention(a, threads);
                     const int64_t forward = plan.forward_tasks, backward = plan.backward_tasks;
                     attention_forward(a, plan, 0, forward / 2, level);
                     attention_forward(a, plan, forward / 2, forward, level);
                     attention_backward(a, problem.grads(), 0, backward / 2, level);
                     attention_backward(a, problem.grads(), backward / 2, backward, level);
                   }});
  }
#ifdef __x86_64__
  // Not for callers, but all of FP32 on AMX except the tiles.
  if (std::is_same_v<T, float> && attention_supports<bfloat16>(32, IsaLevel::kAvx512Vnni) &&
      highest_isa_level() >= IsaLevel::kAvx512Vnni) {
    all.push_back({"AVX512-BF16 vectors, FP32", [](Problem<T>& problem, int threads) {
                     const Attention<T> a = problem.attention();
                     const AttentionPlan plan = plan_attention(a, threads);
                     detail::attention_forward_avx512bf16(a, plan, 0, plan.forward_tasks);
                     detail::attention_backward_avx512bf16(a, problem.grads(), 0,
                                                           plan.backward_tasks);
                   }});
  }
#endif
  return all;
}

template <class T>
void expect_within_the_bound(const Version<T>& version) {
  for (const Case& c : cases()) {
    std::vector<T> out, grad;
    for (const int threads : {1, 3, 64}) {
      Problem<T> problem(c);
      version.run(problem, threads);
      const std::string what = text(c) + ", " + version.name;
      if (out.empty()) {
        problem.check(what);
        problem.check_mean(what);
        out = problem.out();
        grad = problem.grad_qkv();
      }
      EXPECT_TRUE(testing::same_bits(out, problem.out())) << what;
      EXPECT_TRUE(testing::same_bits(grad, problem.grad_qkv())) << what;
    }
  }
}

template <class T>
class AttentionTiles : public ::testing::Test {
 protected:
  void SetUp() override {
    if (versions<T>().empty()) GTEST_SKIP() << "this CPU has neither AMX nor AVX512-BF16";
  }
};
using Types = ::testing::Types<bfloat16, float>;
TYPED_TEST_SUITE(AttentionTiles, Types);

TYPED_TEST(AttentionTiles, AreWithinTheBoundForAnySplit) {
  for (const auto& version : versions<TypeParam>()) expect_within_the_bound(version);
}

TYPED_TEST(AttentionTiles, TakeScoresThatAreFarApart) {
  for (const auto& version : versions<TypeParam>()) {
    Problem<TypeParam> problem({1, 129, 2, 1, 64}, 8);
    version.run(problem, 1);
    problem.check("spread 8, " + version.name);
  }
}

#ifdef __x86_64__
using testing::EmulatedAttention;

// Runs both passes on the emulation; memory filled with NaN, so that nothing unwritten is used.
template <class T>
void run_emulated(Problem<T>& problem, int threads) {
  const Attention<T> attention = problem.attention();
  const AttentionPlan plan = plan_attention(attention, threads);
  const auto with_memory = [&](auto make, auto run) {
    detail::Arena size(nullptr);
    make(size);
    std::vector<char> bytes(static_cast<size_t>(size.bytes() + 64), char(0xff));
    detail::Arena arena(
        reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(bytes.data()) + 63) / 64 * 64));
    run(make(arena));
  };
  EmulatedAttention::begin();
  with_memory([&](detail::Arena& arena) { return detail::ForwardMemory<T>(attention, arena); },
              [&](const detail::ForwardMemory<T>& memory) {
                for (int64_t task = 0; task < plan.forward_tasks; ++task) {
                  detail::forward_task<EmulatedAttention>(attention, plan, task, memory);
                }
              });
  with_memory([&](detail::Arena& arena) { return detail::BackwardMemory<T>(attention, arena); },
              [&](const detail::BackwardMemory<T>& memory) {
                for (int64_t task = 0; task < plan.backward_tasks; ++task) {
                  detail::backward_task<EmulatedAttention>(attention, problem.grads(), task,
                                                           memory);
                }
              });
  EmulatedAttention::end();
}

// Shorter sums than in bfloat16 (4 panels, not 8), the same chunks of keys.
const std::vector<Case>& float_cases() {
  static const std::vector<Case> all = {{1, 1, 1, 1, 32},    {2, 31, 2, 2, 32}, {1, 33, 5, 1, 64},
                                        {2, 65, 4, 2, 32},   {1, 65, 1, 1, 96}, {1, 97, 2, 1, 32},
                                        {1, 129, 2, 1, 128}, {1, 545, 1, 1, 32}};
  return all;
}

template <class T>
class AttentionOnEmulatedTiles : public ::testing::Test {};
TYPED_TEST_SUITE(AttentionOnEmulatedTiles, Types);

TYPED_TEST(AttentionOnEmulatedTiles, IsWithinTheBoundForAnySplit) {
  for (const Case& c : std::is_same_v<TypeParam, float> ? float_cases() : cases()) {
    Problem<TypeParam> one(c), many(c);
    run_emulated(one, 1);
    one.check(text(c));
    one.check_mean(text(c));
    run_emulated(many, 64);
    EXPECT_TRUE(testing::same_bits(one.out(), many.out())) << text(c);
    EXPECT_TRUE(testing::same_bits(one.grad_qkv(), many.grad_qkv())) << text(c);
  }
}

TYPED_TEST(AttentionOnEmulatedTiles, TakesScoresThatAreFarApart) {
  for (const Case& c : {Case{1, 129, 2, 1, 64}, Case{1, 545, 1, 1, 32}}) {
    Problem<TypeParam> problem(c, 8);
    run_emulated(problem, 1);
    problem.check(text(c));
  }
}

// Real AVX-512 code of the rows, which needs no tiles.
class AttentionRows : public ::testing::Test {
 protected:
  void SetUp() override {
    if (highest_isa_level() < IsaLevel::kAvx512Vnni || !cpu_features().avx512bf16) {
      GTEST_SKIP() << "this CPU has no AVX-512 with VNNI and BF16";
    }
  }

  // The value that `pieces` of it, a block apart, add up to.
  static double sum_of(const std::vector<bfloat16>& values, int pieces, size_t i) {
    double sum = 0;
    for (int piece = 0; piece < pieces; ++piece) {
      sum += at(values, piece * detail::kBlock + static_cast<int64_t>(i));
    }
    return sum;
  }

  // The rounding to bfloat16 or what three pieces leave out, and the error of 2^x.
  static void expect_rounded(const std::vector<bfloat16>& actual, int pieces, size_t i,
                             double expected) {
    const double rounding = pieces == 1 ? 0x1p-8 : 0x1p-23;
    EXPECT_LE(std::abs(sum_of(actual, pieces, i) - expected),
              (rounding + 2 * kExpError) * std::abs(expected) + 0x1p-125)
        << i;
  }

  static std::vector<bfloat16> block(int pieces) {
    return std::vector<bfloat16>(static_cast<size_t>(pieces * detail::kBlock));
  }

  template <int kPieces>
  static void check_weights();
  template <int kPieces>
  static void check_slopes();
};

TEST_F(AttentionRows, Maxima) {
  const auto scores = random_values<float>(32, 1);
  auto maxima = random_values<float>(16, 2), expected = maxima;
  detail::attention_raise_maximum_avx512(scores.data(), maxima.data());
  EmulatedAttention::raise_maximum(scores.data(), expected.data());
  EXPECT_TRUE(testing::same_bits(maxima, expected));
  EXPECT_EQ(detail::attention_largest_avx512(maxima.data()),
            EmulatedAttention::largest(maxima.data()));
  EXPECT_NEAR(detail::attention_total_avx512(maxima.data()),
              EmulatedAttention::total(maxima.data()), 16 * 16 * kFloat);
}

template <int kPieces>
void AttentionRows::check_weights() {
  for (const double spread : {0.0, 1.0, 30.0, 300.0}) {
    auto scores = random_values<float>(32, 1, spread);
    scores[7] = detail::kExcluded;
    const float offset = static_cast<float>(3 * spread), factor = 0.7f;
    std::vector<float> totals(16, 1.0f);
    std::vector<bfloat16> weights = block(kPieces);
    detail::attention_weigh_avx512<kPieces>(scores.data(), factor, offset, totals.data(),
                                            weights.data());
    for (size_t i = 0; i < 32; ++i) {
      // The exponent is rounded once.
      const double x = static_cast<float>(double{scores[i]} * factor - offset);
      expect_rounded(weights, kPieces, i, std::exp2(x));
      if (i >= 16) continue;
      const double y = static_cast<float>(double{scores[i + 16]} * factor - offset);
      const double total = 1 + std::exp2(x) + std::exp2(y);
      EXPECT_NEAR(totals[i], total, (2 * kExpError + 2 * kFloat) * total);
    }
    EXPECT_EQ(sum_of(weights, kPieces, 7), 0);
  }
  // 2^0 is 1: a query that sees one key gives its value unchanged.
  const std::vector<float> same(32, 3.0f);
  std::vector<float> totals(16, 0.0f);
  std::vector<bfloat16> weights = block(kPieces);
  detail::attention_weigh_avx512<kPieces>(same.data(), 0.5f, 1.5f, totals.data(), weights.data());
  EXPECT_EQ(totals[5], 2.0f);
}

TEST_F(AttentionRows, Weights) {
  check_weights<1>();
  check_weights<3>();
}

template <int kPieces>
void AttentionRows::check_slopes() {
  auto scores = random_values<float>(32, 1, 5), grad_weights = random_values<float>(32, 2);
  auto offsets = random_values<float>(32, 3), deltas = random_values<float>(32, 4);
  scores[3] = detail::kExcluded;
  offsets[9] = -detail::kExcluded;
  std::vector<bfloat16> weights = block(kPieces), slopes = weights;
  detail::attention_differentiate_avx512<kPieces>(scores.data(), grad_weights.data(), 0.3f,
                                                  offsets.data(), deltas.data(), weights.data(),
                                                  slopes.data());
  for (size_t i = 0; i < 32; ++i) {
    const double x = static_cast<float>(double{scores[i]} * 0.3f - offsets[i]);
    expect_rounded(weights, kPieces, i, std::exp2(x));
    expect_rounded(slopes, kPieces, i, std::exp2(x) * double{grad_weights[i] - deltas[i]});
  }
  for (const size_t i : {3, 9}) {
    EXPECT_EQ(sum_of(weights, kPieces, i), 0);
    EXPECT_EQ(sum_of(slopes, kPieces, i), 0);
  }
}

TEST_F(AttentionRows, Slopes) {
  check_slopes<1>();
  check_slopes<3>();
}

template <class T>
void check_scale_and_dot() {
  const auto sums = random_values<float>(32, 1);
  std::vector<T> out(32), expected(32);
  detail::attention_scale_avx512(sums.data(), 0.37f, out.data());
  EmulatedAttention::scale(sums.data(), 0.37f, expected.data());
  EXPECT_TRUE(testing::same_bits(out, expected));
  const auto a = random_values<T>(96, 2), b = random_values<T>(96, 3);
  EXPECT_NEAR(detail::attention_dot_avx512(a.data(), b.data(), 96),
              EmulatedAttention::dot(a.data(), b.data(), 96), 96 * 96 * 2 * kFloat);
}

TEST_F(AttentionRows, ScaleAndDot) {
  check_scale_and_dot<bfloat16>();
  check_scale_and_dot<float>();
}
#endif

TEST(Attention, PartsFillTheThreads) {
  Problem<bfloat16> problem({1, 610, 1, 1, 32});
  EXPECT_EQ(plan_attention(problem.attention(), 1).parts, 1);
  EXPECT_GE(plan_attention(problem.attention(), 16).forward_tasks, 4);
}

TEST(Attention, RefusesWhatItHasNot) {
  EXPECT_FALSE(attention_supports<bfloat16>(48, IsaLevel::kAmx));
  EXPECT_FALSE(attention_supports<bfloat16>(288, IsaLevel::kAmx));
  EXPECT_FALSE(attention_supports<bfloat16>(64, IsaLevel::kAvx512));
  EXPECT_FALSE(attention_supports<float>(64, IsaLevel::kAvx512Vnni));
  EXPECT_FALSE(attention_supports<float>(48, IsaLevel::kAmx));
  Problem<bfloat16> problem({1, 3, 4, 2, 32});
  Attention<bfloat16> attention = problem.attention();
  attention.kv_heads = 3;
  EXPECT_QUEST_ERROR(plan_attention(attention, 1), ErrorKind::kUsage, "4 heads on 3");
  attention = problem.attention();
  attention.head_dim = 33;
  EXPECT_QUEST_ERROR(plan_attention(attention, 1), ErrorKind::kUsage, "head size 33");
  attention = problem.attention();
  attention.row_stride = 255;
  EXPECT_QUEST_ERROR(plan_attention(attention, 1), ErrorKind::kUsage, "row stride 255");
}

}  // namespace
}  // namespace quest::kernels
