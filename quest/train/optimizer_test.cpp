#include "quest/train/optimizer.h"

#include <cmath>
#include <functional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

constexpr int64_t kSizes[] = {1, 7, 33, 1000};

std::vector<nn::NamedParameter> make_parameters(at::ScalarType type) {
  std::vector<nn::NamedParameter> out;
  uint64_t stream = 0;
  for (const int64_t n : kSizes) {
    const Philox random(3, stream++);
    at::Tensor t = at::empty({n}, at::kDouble);
    for (int64_t k = 0; k < n; ++k)
      t.data_ptr<double>()[k] = random.normal(static_cast<uint64_t>(k));
    t = t.to(type);
    t.requires_grad_(true);
    out.push_back({fmt::format("p{}", n), t, n != 33});
  }
  return out;
}

void set_gradients(const std::vector<nn::NamedParameter>& parameters, int step) {
  uint64_t stream = 100 + 10 * static_cast<uint64_t>(step);
  for (const auto& p : parameters) {
    const Philox random(5, stream++);
    at::Tensor g = at::empty({p.tensor.numel()}, at::kDouble);
    for (int64_t k = 0; k < g.numel(); ++k) {
      g.data_ptr<double>()[k] = random.normal(static_cast<uint64_t>(k)) * (k % 3 == 0 ? 1e-3 : 1);
    }
    at::Tensor(p.tensor).mutable_grad() = g.to(p.tensor.scalar_type());
  }
}

// The textbook update of one value, in double; keeps its own state.
using Update = std::function<double(double w, double g, double lr, bool decay)>;

// Runs optimizer and textbook side by side on all values.
void expect_equal_to(const TrainConfig::Optimizer& settings,
                     const std::function<Update()>& make_update) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    const auto parameters = make_parameters(type);
    const auto optimizer = make_optimizer(settings, parameters);
    std::vector<std::vector<Update>> updates;
    std::vector<std::vector<double>> expected;
    for (const auto& p : parameters) {
      const at::Tensor w = p.tensor.detach().to(at::kDouble);
      expected.emplace_back(w.data_ptr<double>(), w.data_ptr<double>() + w.numel());
      updates.emplace_back();
      for (int64_t k = 0; k < w.numel(); ++k) updates.back().push_back(make_update());
    }
    for (int step = 0; step < 6; ++step) {
      const double lr = 0.01 * (step + 1);
      set_gradients(parameters, step);
      const int64_t version = parameters[0].tensor._version();
      for (size_t i = 0; i < parameters.size(); ++i) {
        const at::Tensor g = parameters[i].tensor.grad().to(at::kDouble);
        for (size_t k = 0; k < expected[i].size(); ++k) {
          expected[i][k] = updates[i][k](expected[i][k], g.data_ptr<double>()[k], lr,
                                         parameters[i].weight_decay);
        }
      }
      optimizer->step(lr);
      // Quantized copies of the weights are remade when the version changes.
      EXPECT_GT(parameters[0].tensor._version(), version);
    }
    EXPECT_EQ(optimizer->steps(), 6);
    const double tolerance = type == at::kDouble ? 1e-12 : 3e-6;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor w = parameters[i].tensor.detach().to(at::kDouble);
      for (size_t k = 0; k < expected[i].size(); ++k) {
        ASSERT_NEAR(w.data_ptr<double>()[k], expected[i][k],
                    tolerance * std::max(1.0, std::abs(expected[i][k])))
            << parameters[i].name << "[" << k << "]";
      }
    }
  }
}

TrainConfig::Optimizer named(const std::string& name) {
  TrainConfig::Optimizer settings;
  settings.name = name;
  return settings;
}

TEST(Optimizer, AdamWIsTheTextbookUpdate) {
  const TrainConfig::Optimizer s = named("adamw");
  expect_equal_to(s, [s]() -> Update {
    return [s, m = 0.0, v = 0.0, t = 0](double w, double g, double lr, bool decay) mutable {
      ++t;
      m = s.beta1 * m + (1 - s.beta1) * g;
      v = s.beta2 * v + (1 - s.beta2) * g * g;
      const double m_hat = m / (1 - std::pow(s.beta1, t)), v_hat = v / (1 - std::pow(s.beta2, t));
      if (decay) w -= lr * s.weight_decay * w;
      return w - lr * m_hat / (std::sqrt(v_hat) + s.eps);
    };
  });
}

TEST(Optimizer, SgdWithAndWithoutMomentum) {
  for (const double momentum : {0.0, 0.9}) {
    for (const bool nesterov : {false, true}) {
      if (nesterov && momentum == 0) continue;
      TrainConfig::Optimizer s = named("sgd");
      s.momentum = momentum;
      s.nesterov = nesterov;
      expect_equal_to(s, [s]() -> Update {
        return [s, b = 0.0](double w, double g, double lr, bool decay) mutable {
          if (decay) w -= lr * s.weight_decay * w;
          b = s.momentum * b + g;
          return w - lr * (s.nesterov ? g + s.momentum * b : b);
        };
      });
    }
  }
}

// The paper's three sequences x, y, z in the open, for the training point y.
TEST(Optimizer, ScheduleFreeTrainsAtY) {
  const TrainConfig::Optimizer s = named("schedule_free_adamw");
  expect_equal_to(s, [s]() -> Update {
    return [s, v = 0.0, x = 0.0, z = 0.0, t = 0, top = 0.0, sum = 0.0](
               double y, double g, double lr, bool decay) mutable {
      if (t == 0) x = z = y;
      ++t;
      top = std::max(top, lr);
      sum += top * top;
      const double c = top * top / sum;
      v = s.beta2 * v + (1 - s.beta2) * g * g;
      const double d = g / (std::sqrt(v / (1 - std::pow(s.beta2, t))) + s.eps) +
                       (decay ? s.weight_decay * y : 0.0);
      z -= lr * d;
      x = (1 - c) * x + c * z;
      return (1 - s.beta1) * z + s.beta1 * x;
    };
  });
}

TEST(Optimizer, ScheduleFreeIsEvaluatedAtX) {
  TrainConfig::Optimizer s = named("schedule_free_adamw");
  s.weight_decay = 0;
  const auto parameters = make_parameters(at::kDouble);
  const auto optimizer = make_optimizer(s, parameters);
  // Equal learning rates: x is the plain mean of z after each step.
  at::Tensor mean;
  for (int step = 0; step < 5; ++step) {
    set_gradients(parameters, step);
    optimizer->step(0.02);
    const at::Tensor z = optimizer->state()[3].tensor;
    ASSERT_EQ(optimizer->state()[3].name, "p1000.z");
    mean = step == 0 ? z.clone() : mean + (z - mean) / (step + 1);
  }
  const at::Tensor y = parameters[3].tensor.detach().clone();
  optimizer->to_evaluation_point();
  EXPECT_LT((parameters[3].tensor - mean).abs().max().item<double>(), 1e-12);
  EXPECT_GT((parameters[3].tensor - y).abs().max().item<double>(), 1e-4);
  optimizer->to_training_point();
  EXPECT_TRUE(at::equal(parameters[3].tensor, y));
}

TEST(Optimizer, StateRestoredGoesOnBitwise) {
  for (const char* name : {"adamw", "sgd", "schedule_free_adamw"}) {
    const auto run = [&](int stop_at) {
      auto parameters = make_parameters(at::kFloat);
      auto optimizer = make_optimizer(named(name), parameters);
      for (int step = 0; step < 6; ++step) {
        if (step == stop_at) {
          auto fresh = make_parameters(at::kFloat);
          auto other = make_optimizer(named(name), fresh);
          {
            const at::NoGradGuard no_grad;
            for (size_t k = 0; k < fresh.size(); ++k) fresh[k].tensor.copy_(parameters[k].tensor);
          }
          const auto from = optimizer->state();
          const auto to = other->state();
          EXPECT_EQ(from.size(), to.size());
          for (size_t k = 0; k < from.size(); ++k) {
            EXPECT_EQ(from[k].name, to[k].name);
            at::Tensor(to[k].tensor).copy_(from[k].tensor);
          }
          other->set_scalars(optimizer->scalars());
          other->set_steps(optimizer->steps());
          parameters = fresh;
          optimizer = std::move(other);
        }
        set_gradients(parameters, step);
        optimizer->step(0.01 * (step + 1));
      }
      std::vector<at::Tensor> out;
      for (const auto& p : parameters) out.push_back(p.tensor.detach());
      return out;
    };
    const auto straight = run(-1), stopped = run(3);
    for (size_t k = 0; k < straight.size(); ++k) {
      EXPECT_TRUE(at::equal(straight[k], stopped[k])) << name;
    }
  }
}

TEST(Optimizer, NormAndClipping) {
  const auto parameters = make_parameters(at::kFloat);
  set_gradients(parameters, 0);
  double sum = 0;
  for (const auto& p : parameters) {
    sum += p.tensor.grad().to(at::kDouble).pow(2).sum().item<double>();
  }
  const double norm = gradient_norm(parameters);
  EXPECT_NEAR(norm, std::sqrt(sum), 1e-12 * norm);
  const at::Tensor before = parameters[3].tensor.grad().clone();
  clip_gradients(parameters, norm, 0);
  clip_gradients(parameters, norm, norm * 1.01);
  EXPECT_TRUE(at::equal(parameters[3].tensor.grad(), before));
  clip_gradients(parameters, norm, 0.5);
  EXPECT_NEAR(gradient_norm(parameters), 0.5, 1e-6);
}

// Fixed order: the same double whatever the number of threads.
TEST(Optimizer, NormDoesNotDependOnThreads) {
  at::Tensor w = at::zeros({300001}, at::kFloat);
  w.requires_grad_(true);
  w.mutable_grad() = at::arange(300001, at::kFloat).sin();
  const std::vector<nn::NamedParameter> parameters = {{"w", w, true}};
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double one = gradient_norm(parameters);
  at::set_num_threads(3);
  const double three = gradient_norm(parameters);
  at::set_num_threads(threads);
  EXPECT_EQ(one, three);
  EXPECT_GT(one, 100);
}

TEST(Optimizer, RefusesWrongState) {
  const auto parameters = make_parameters(at::kFloat);
  EXPECT_QUEST_ERROR(make_optimizer(named("adamw"), parameters)->set_scalars({1.0}),
                     ErrorKind::kData, "adamw");
  EXPECT_QUEST_ERROR(make_optimizer(named("schedule_free_adamw"), parameters)->set_scalars({}),
                     ErrorKind::kData, "schedule_free_adamw");
  EXPECT_QUEST_ERROR(make_optimizer(named("lion"), parameters), ErrorKind::kUsage, "lion");
}

}  // namespace
}  // namespace quest::train
