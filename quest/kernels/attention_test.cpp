#include "quest/kernels/attention.h"

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/kernels/attention_levels.h"
#include "quest/kernels/float_kernels_testing.h"
#ifdef __x86_64__
#include "quest/kernels/emulated_attention_testing.h"
#include "quest/kernels/x86/attention_amx_backward.h"
#include "quest/kernels/x86/attention_amx_forward.h"
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
                                        {1, 129, 2, 1, 128}, {2, 129, 3, 3, 32}, {1, 33, 1, 1, 256},
                                        {1, 300, 2, 1, 32},  {1, 610, 1, 1, 32}};
  return all;
}

constexpr double kFloat = 0x1p-24;
constexpr double kDenormals = 1e-34;  // taken as zero in sums
constexpr double kExpError = 3e-7;    // of 2^x
// Of the root of the mean squared error, relative. FP32 reaches 1.2e-6 at T = 512, D = 128
// (LibTorch 0.5e-6), without one of the low pieces 7e-6, with one piece 3e-3.
template <class T>
constexpr double kMeanBound = std::is_same_v<T, float> ? 2e-6 : testing::rounding_error<T>();

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

  // In the mean, errors of random sign cancel: the sharper statement, for q, k and v apart.
  void check_mean(const std::string& what) {
    const auto error = [](const auto& actual, const std::vector<double>& exact, auto is_counted) {
      double difference = 0, size = 0;
      for (size_t i = 0; i < exact.size(); ++i) {
        if (!is_counted(static_cast<int64_t>(i))) continue;
        difference += std::pow(static_cast<float>(actual[i]) - exact[i], 2);
        size += exact[i] * exact[i];
      }
      return std::sqrt(difference / size);
    };
    EXPECT_LT(error(out_, exact_out_, [](int64_t) { return true; }), kMeanBound<T>) << what;
    if (case_.length == 1) return;  // gradients of q and k vanish
    const int64_t q = case_.heads * case_.head_dim, k = q + case_.kv_heads * case_.head_dim;
    for (const auto& [begin, end] : {std::pair{int64_t{0}, q}, {q, k}, {k, width()}}) {
      EXPECT_LT(error(grad_qkv_, exact_grad_,
                      [&, first = begin, last = end](int64_t i) {
                        return i % stride() >= first && i % stride() < last;
                      }),
                kMeanBound<T>)
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

// Root of the mean square, relative; NaN (behind rows) in both counts as equal.
template <class T>
double difference(const std::vector<T>& x, const std::vector<T>& y) {
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double a = static_cast<float>(x[i]), b = static_cast<float>(y[i]);
    if (std::isnan(a) && std::isnan(b)) continue;
    error += (a - b) * (a - b);
    size += b * b;
  }
  return std::sqrt(error / size);
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
  static const std::vector<Case> all = {
      {1, 1, 1, 1, 32},    {2, 31, 2, 2, 32},  {1, 33, 5, 1, 64},
      {2, 65, 4, 2, 32},   {1, 65, 1, 1, 96},  {1, 97, 2, 1, 32},
      {1, 129, 2, 1, 128}, {1, 33, 1, 1, 256}, {1, 545, 1, 1, 32}};
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

// FP32 results differ by the order of sums and by 2^x alone.
TYPED_TEST(AttentionTiles, AgreeWithTheirEmulation) {
  const Case c{2, 161, 4, 2, 64};
  Problem<TypeParam> emulated(c);
  run_emulated(emulated, 1);
  for (const auto& version : versions<TypeParam>()) {
    Problem<TypeParam> problem(c);
    version.run(problem, 1);
    EXPECT_LT(difference(problem.out(), emulated.out()), kMeanBound<TypeParam>) << version.name;
    EXPECT_LT(difference(problem.grad_qkv(), emulated.grad_qkv()), kMeanBound<TypeParam>)
        << version.name;
  }
}

// An infinite or NaN value of a query makes NaN of its results, and of no other query's.
template <class T>
void expect_nan_of_query(const std::function<void(Problem<T>&)>& run, const std::string& what) {
  const Case c{1, 70, 1, 1, 32};
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    Problem<T> problem(c), clean(c);
    constexpr int64_t kQuery = 40;
    problem.qkv()[static_cast<size_t>(kQuery * problem.attention().row_stride + 5)] = T(value);
    run(problem);
    run(clean);
    for (int64_t t = 0; t < c.length; ++t) {
      for (int64_t x = 0; x < c.head_dim; ++x) {
        const auto i = static_cast<size_t>(t * c.head_dim + x);
        if (t == kQuery) {
          ASSERT_TRUE(std::isnan(static_cast<float>(problem.out()[i]))) << what << ": " << x;
        } else {
          ASSERT_EQ(static_cast<float>(problem.out()[i]), static_cast<float>(clean.out()[i]))
              << what << ": query " << t << ", " << x;
        }
      }
    }
    ASSERT_TRUE(std::isnan(static_cast<float>(
        problem.grad_qkv()[static_cast<size_t>(kQuery * problem.attention().row_stride)])))
        << what;
  }
}

TYPED_TEST(AttentionTiles, NonFiniteQueriesGiveNan) {
  for (const auto& version : versions<TypeParam>()) {
    expect_nan_of_query<TypeParam>([&](Problem<TypeParam>& problem) { version.run(problem, 1); },
                                   version.name);
  }
}

TYPED_TEST(AttentionOnEmulatedTiles, NonFiniteQueriesGiveNan) {
  expect_nan_of_query<TypeParam>([](Problem<TypeParam>& problem) { run_emulated(problem, 1); },
                                 "emulated");
}

TYPED_TEST(AttentionOnEmulatedTiles, TakesScoresThatAreFarApart) {
  for (const Case& c : {Case{1, 129, 2, 1, 64}, Case{1, 545, 1, 1, 32}}) {
    Problem<TypeParam> problem(c, 8);
    run_emulated(problem, 1);
    problem.check(text(c));
  }
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
