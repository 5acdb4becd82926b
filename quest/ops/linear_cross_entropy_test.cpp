#include "quest/ops/linear_cross_entropy.h"

#include <cmath>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

using testing::as_double;
using testing::leaf;
using testing::normal;

at::Tensor random_targets(int64_t m, int64_t v, int64_t ignore_every) {
  const Philox random(11);
  at::Tensor targets = at::zeros({m}, at::kLong);
  for (int64_t i = 0; i < m; ++i) {
    const auto at = static_cast<uint64_t>(i);
    targets.data_ptr<int64_t>()[i] =
        ignore_every > 0 && i % ignore_every == 0
            ? -100
            : static_cast<int64_t>(random.below(at, static_cast<uint64_t>(v)));
  }
  return targets;
}

// The formula in double, from nothing but log_softmax and softmax.
struct Reference {
  at::Tensor losses, loss, grad_x, grad_weight;
  at::Tensor size_x, size_weight;  // sums of the absolute terms of the gradients
};

Reference reference(const at::Tensor& x, const at::Tensor& w, const at::Tensor& targets) {
  const int64_t m = x.size(0);
  const at::Tensor logits = at::mm(x, w.t());
  const at::Tensor log_p = at::log_softmax(logits, 1);
  at::Tensor g = at::softmax(logits, 1), losses = at::zeros({m}, at::kDouble);
  int64_t count = 0;
  for (int64_t i = 0; i < m; ++i) {
    const int64_t target = targets.data_ptr<int64_t>()[i];
    if (target < 0) {
      g[i].zero_();
      continue;
    }
    ++count;
    losses[i] = -log_p[i][target];
    g[i][target] -= 1;
  }
  const double n = static_cast<double>(std::max<int64_t>(count, 1));
  g = g / n;
  return {losses,           losses.sum() / n,         at::mm(g, w),
          at::mm(g.t(), x), at::mm(g.abs(), w.abs()), at::mm(g.t().abs(), x.abs())};
}

struct Result {
  at::Tensor loss, grad_x, grad_weight;
};

Result run(const at::Tensor& x, const at::Tensor& w, const at::Tensor& targets, at::ScalarType type,
           double factor = 1) {
  const at::Tensor x_leaf = leaf(x, type);
  const at::Tensor w_leaf = leaf(w, type == at::kDouble ? at::kDouble : at::kFloat);
  const at::Tensor loss = linear_cross_entropy(x_leaf, w_leaf, w_leaf.detach().to(type), targets);
  (loss * factor).backward();
  return {loss.detach(), x_leaf.grad(), w_leaf.grad()};
}

void expect_reference(int64_t m, int64_t v, int64_t c, at::ScalarType type) {
  SCOPED_TRACE(fmt::format("{} M={} V={} C={}", at::toString(type), m, v, c));
  const at::Tensor x = as_double(normal({m, c}, 1, type));
  // The head's copy in the compute type is what the products see.
  const at::Tensor w = as_double(normal({v, c}, 2, type, 0.3));
  const at::Tensor targets = random_targets(m, v, 7);
  const Reference expected = reference(x, w, targets);
  const Result actual = run(x, w, targets, type);
  ASSERT_EQ(actual.loss.scalar_type(), type == at::kDouble ? at::kDouble : at::kFloat);
  ASSERT_EQ(actual.grad_x.scalar_type(), type);
  ASSERT_EQ(actual.grad_weight.scalar_type(), type == at::kDouble ? at::kDouble : at::kFloat);

  // A logit is wrong by e = (sum over C + one rounding to the type) relative to its terms; a loss
  // by at most 2e, a probability by the factor exp(2e); each is rounded once more.
  const double wide = type == at::kDouble ? 0x1p-53 : 0x1p-24;
  const double rounding = type == at::kBFloat16 ? 0x1p-8 : wide;
  const double terms = at::mm(x.abs(), w.abs().t()).max().item<double>();
  const double largest = at::mm(x, w.t()).abs().max().item<double>();
  const double e = static_cast<double>(c) * wide * terms + rounding * largest;
  const double loss_bound = 2 * e + 8 * wide * (1 + largest);
  testing::expect_within(actual.loss, expected.loss, loss_bound, "loss");
  testing::expect_within(linear_token_losses(x.to(type), w.to(type), targets), expected.losses,
                         loss_bound + 0x1p-24 * expected.losses.max().item<double>(), "losses");
  // An entry of softmax - onehot is wrong by 2e relative to its terms, of which the one-hot's
  // cancellation is at most 2 (p <= 1): the sums below take p + onehot for |p - onehot|.
  const double g = 2 * (2 * e + 3 * rounding + (static_cast<double>(v + m) + 16) * wide);
  const double mean = 1.0 / static_cast<double>(targets.ne(-100).sum().item<int64_t>());
  testing::expect_within(actual.grad_x, expected.grad_x,
                         (expected.size_x + w.abs().max() * mean) * g, "grad x");
  testing::expect_within(actual.grad_weight, expected.grad_weight,
                         (expected.size_weight + x.abs().max() * mean) * g, "grad weight");
}

TEST(LinearCrossEntropy, IsTheFormulaInEveryType) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    expect_reference(1, 2, 16, type);
    expect_reference(65, 257, 33, type);
  }
}

// 64 MiB of logits are held at once: these rows need three chunks, of which the last is a part.
// They must give what the same rows give in pieces that are cut elsewhere and fit into one chunk
// each.
TEST(LinearCrossEntropy, ChunksJoinSeamlessly) {
  const int64_t v = 65536, c = 8;
  const at::ScalarType type = at::kFloat;
  const int64_t rows = (int64_t{64} << 20) / (v * 4);
  const int64_t m = 2 * rows + 37;
  const at::Tensor x = normal({m, c}, 1, type), w = normal({v, c}, 2, type);
  const at::Tensor targets = random_targets(m, v, 7);
  const auto count = [](const at::Tensor& t) {
    return static_cast<double>(t.ne(-100).sum().item<int64_t>());
  };
  const Result whole = run(x, w, targets, type);
  const at::Tensor losses = linear_token_losses(x, w, targets);
  at::Tensor loss = at::zeros({}, at::kDouble), grad_weight = at::zeros({v, c}, at::kDouble);
  std::vector<at::Tensor> grad_x, piece_losses;
  for (int64_t begin = 0; begin < m;) {
    const int64_t n = std::min(rows - 13, m - begin);
    const at::Tensor x_part = x.narrow(0, begin, n), t_part = targets.narrow(0, begin, n);
    const double share = count(t_part) / count(targets);
    const Result part = run(x_part, w, t_part, type);
    loss += as_double(part.loss) * share;
    grad_weight += as_double(part.grad_weight) * share;
    grad_x.push_back(as_double(part.grad_x) * share);
    piece_losses.push_back(linear_token_losses(x_part, w, t_part));
    begin += n;
  }
  // Sums over V in another order: roundings of random sign.
  const double tolerance = std::sqrt(static_cast<double>(v)) * 0x1p-24;
  EXPECT_NEAR(whole.loss.item<double>(), loss.item<double>(), 1e-5);
  EXPECT_LT(testing::relative_error(losses, at::cat(piece_losses)), 1e-6);
  EXPECT_LT(testing::relative_error(whole.grad_x, at::cat(grad_x)), tolerance);
  EXPECT_LT(testing::relative_error(whole.grad_weight, grad_weight), tolerance);
}

TEST(LinearCrossEntropy, FiniteDifferences) {
  const at::Tensor x = normal({5, 4}, 1), w = normal({9, 4}, 2);
  const at::Tensor targets = random_targets(5, 9, 3);
  const Result actual = run(x, w, targets, at::kDouble);
  const at::NoGradGuard no_grad;
  const auto f = [&] { return linear_cross_entropy(x, w, w, targets).item<double>(); };
  testing::expect_within(actual.grad_x, testing::numeric_gradient(f, x), 1e-9, "grad x");
  testing::expect_within(actual.grad_weight, testing::numeric_gradient(f, w), 1e-9, "grad weight");
}

TEST(LinearCrossEntropy, BackwardScalesByTheIncomingGradient) {
  const at::Tensor x = normal({20, 8}, 1), w = normal({30, 8}, 2);
  const at::Tensor targets = random_targets(20, 30, 0);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const Result one = run(x, w, targets, type), quarter = run(x, w, targets, type, 0.25);
    // Powers of two scale exactly.
    EXPECT_TRUE(at::equal(quarter.loss, one.loss));
    EXPECT_TRUE(at::equal(quarter.grad_x, one.grad_x * 0.25));
    EXPECT_TRUE(at::equal(quarter.grad_weight, one.grad_weight * 0.25));
  }
}

// A tied head is a leaf that gets a gradient from elsewhere too: both are added.
TEST(LinearCrossEntropy, TiedWeightsAddUp) {
  const at::Tensor x = normal({20, 8}, 1), w = normal({30, 8}, 2);
  const at::Tensor targets = random_targets(20, 30, 0), other = normal({30, 8}, 3, at::kFloat);
  const at::Tensor tied = leaf(w, at::kFloat);
  const at::Tensor loss = linear_cross_entropy(x.to(at::kFloat), tied, tied.detach(), targets);
  (loss + (tied * other).sum()).backward();
  const at::Tensor alone = run(x, w, targets, at::kFloat).grad_weight;
  testing::expect_within(tied.grad(), as_double(alone) + as_double(other), 1e-6, "tied");
}

TEST(LinearCrossEntropy, GradientsOnlyWhereWanted) {
  const at::Tensor x = normal({20, 8}, 1, at::kFloat), w = normal({30, 8}, 2, at::kFloat);
  const at::Tensor targets = random_targets(20, 30, 4);
  const Result both = run(x, w, targets, at::kFloat);
  const at::Tensor x_leaf = leaf(x, at::kFloat), w_leaf = leaf(w, at::kFloat);
  linear_cross_entropy(x_leaf, w, w, targets).backward();
  linear_cross_entropy(x, w_leaf, w, targets).backward();
  EXPECT_TRUE(at::equal(x_leaf.grad(), both.grad_x));
  EXPECT_TRUE(at::equal(w_leaf.grad(), both.grad_weight));
  const at::NoGradGuard no_grad;
  const at::Tensor loss = linear_cross_entropy(x_leaf, w_leaf, w, targets);
  EXPECT_FALSE(loss.requires_grad());
  EXPECT_TRUE(at::equal(loss, both.loss));
}

TEST(LinearCrossEntropy, NothingCountsIfAllIsIgnored) {
  const at::Tensor x = normal({20, 8}, 1), w = normal({30, 8}, 2);
  const at::Tensor targets = at::zeros({20}, at::kLong) - 100;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const Result actual = run(x, w, targets, type);
    EXPECT_EQ(actual.loss.item<double>(), 0);
    EXPECT_TRUE(at::equal(actual.grad_x, at::zeros({20, 8}, type)));
    EXPECT_EQ(actual.grad_weight.abs().max().item<double>(), 0);
    EXPECT_EQ(linear_token_losses(x.to(type), w.to(type), targets).abs().max().item<double>(), 0);
  }
}

TEST(LinearCrossEntropy, RefusesWrongTargetsAndShapes) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const at::Tensor x = normal({20, 8}, 1, type), w = normal({30, 8}, 2, type);
    for (const int64_t bad : {int64_t{30}, int64_t{-1}, int64_t{-101}}) {
      at::Tensor targets = random_targets(20, 30, 4);
      targets[13].fill_(bad);
      const std::string text = fmt::format("target 13 is {}", bad);
      EXPECT_QUEST_ERROR(linear_cross_entropy(x, w, w, targets), ErrorKind::kData, text);
      EXPECT_QUEST_ERROR(linear_token_losses(x, w, targets), ErrorKind::kData, text);
    }
    const at::Tensor targets = random_targets(20, 30, 4);
    EXPECT_QUEST_ERROR(linear_cross_entropy(x, normal({30, 7}, 2, type), w, targets),
                       ErrorKind::kUsage, "30 x 7");
    EXPECT_QUEST_ERROR(linear_cross_entropy(x, w, w, targets.narrow(0, 0, 19)), ErrorKind::kUsage,
                       "targets 19");
    EXPECT_QUEST_ERROR(linear_cross_entropy(x, w, w, targets.to(at::kInt)), ErrorKind::kUsage,
                       "Int");
  }
}

}  // namespace
}  // namespace quest::ops
