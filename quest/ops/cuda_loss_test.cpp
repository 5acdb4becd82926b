// The loss and the optimizer's step on a GPU against their definitions. Skipped where no GPU can be
// used.
#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include "quest/kernels/cross_entropy.h"
#include "quest/kernels/cuda/adamw.h"
#include "quest/kernels/cuda/cross_entropy.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/gpu_optimizer.h"
#include "quest/ops/linear_cross_entropy.h"
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

TEST_F(CudaKernels, CrossEntropyIsWithinRoundingOfTheDefinition) {
  for (const int64_t v : {1, 31, 257, 4096, 32000}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const int64_t m = 6;
      const at::Tensor logits = (normal({m, v}, 1) * 5).to(type);
      if (v > 1) logits[1][v - 1] = -std::numeric_limits<float>::infinity();
      const at::Tensor targets = at::arange(m, at::kLong).remainder(v);
      targets[2] = -100;
      targets[3] = v - 1;
      const at::Tensor grads = logits.clone(), losses = at::empty({m}, at::kFloat);
      const at::Tensor dl = logits.cuda(), dt = targets.cuda(), got = unwritten({m}, at::kFloat);
      const at::Tensor plain = logits.cuda(), got_plain = unwritten({m}, at::kFloat);
      const at::Tensor scale = at::full({}, 0.25f, at::TensorOptions(at::kFloat)).cuda();
      with_kernel_type(type, "test", [&](auto element) {
        using T = decltype(element);
        kernels::cross_entropy<T>(data<T>(grads), data<int64_t>(targets), m, v, 0.25f,
                                  data<float>(losses), IsaLevel::kScalar);
        gpu::cross_entropy<T>(data<T>(dl), data<int64_t>(dt), m, v, data<float>(scale),
                              data<float>(got), current_stream());
        gpu::cross_entropy<T>(data<T>(plain), data<int64_t>(dt), m, v, nullptr,
                              data<float>(got_plain), current_stream());
      });
      const std::string what = fmt::format("V={} {}", v, at::toString(type));
      expect_within(got.cpu(), losses, losses.abs() * 1e-5 + 1e-5, what);
      expect_same_bits(got_plain, got, what + " without gradient");
      expect_same_bits(plain, logits, what + " logits stay");
      expect_within(dl.cpu(), grads,
                    grads.to(at::kDouble).abs() * (2 * testing::rounding_error(type) + 1e-5) + 1e-9,
                    what + " gradient");
    }
  }
  const at::Tensor logits = normal({2, 8}, 1, at::kFloat).cuda();
  const at::Tensor targets = at::full({2}, 8, at::TensorOptions(at::kLong).device(at::kCUDA));
  const at::Tensor losses = unwritten({2}, at::kFloat);
  gpu::cross_entropy<float>(data<float>(logits), data<int64_t>(targets), 2, 8, nullptr,
                            data<float>(losses), current_stream());
  EXPECT_TRUE(std::isnan(losses[0].item<float>())) << "a target outside the vocabulary";
}

// More tokens than one chunk of logits holds, some that do not count.
TEST_F(CudaKernels, HeadAndLossInChunksAreThoseOfTheCpu) {
  const int64_t v = 32000, c = 64, rows = 4096;
  const int64_t m = rows + 700;
  ASSERT_LT(logits_chunk_rows(v, 2, at::kCUDA), m);
  const at::Tensor x0 = normal({m, c}, 1, at::kBFloat16), w0 = normal({v, c}, 2, at::kFloat, 0.1);
  const at::Tensor targets = at::arange(m, at::kLong);
  for (int64_t i = 0; i < m; i += 7) targets[i] = -100;
  const auto run = [&](at::DeviceType device) {
    const at::Tensor x = testing::leaf(x0.to(device), at::kBFloat16);
    const at::Tensor w = testing::leaf(w0.to(device), at::kFloat);
    const at::Tensor loss =
        linear_cross_entropy(x, w, w.detach().to(at::kBFloat16), targets.to(device));
    (loss * 0.5).backward();
    return std::array<at::Tensor, 3>{loss.detach().cpu(), x.grad().cpu(), w.grad().cpu()};
  };
  const auto expected = run(at::kCPU), got = run(at::kCUDA);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_LT(testing::relative_error(got[i], expected[i]), i == 0 ? 1e-4 : 1e-2) << i;
  }
}

// AdamW with clipping, by its formulas in double.
TEST_F(CudaKernels, OptimizerStepIsThatOfTheFormulas) {
  for (const int64_t n : {1, 3, 5, 31, 257, 100003}) {
    for (const double clip : {0.0, 0.5, 1e6}) {
      for (const double decay : {0.0, 0.1}) {
        for (const int64_t before : {0, 999}) {
          const AdamWStep settings{0.9, 0.95, 1e-8};
          const double lr = 1e-2;
          const std::vector<at::Tensor> g = {normal({n}, 1, at::kFloat).cuda(),
                                             normal({2 * n + 1}, 2, at::kFloat).cuda()};
          const at::Tensor w0 = normal({n}, 3, at::kFloat), m0 = normal({n}, 4, at::kFloat) * 0.1;
          const at::Tensor v0 = normal({n}, 5, at::kFloat).square() * 0.1;
          const at::Tensor w = w0.cuda(), m = m0.cuda(), v = v0.cuda();
          const at::Tensor control = make_step_control();
          control.select(0, StepControl::kLearningRate).fill_(lr);
          control.select(0, StepControl::kUpdates).fill_(static_cast<double>(before));
          begin_step(g, clip, settings.beta1, settings.beta2, control);
          adamw_step({{w, g[0], m, v, decay}}, settings, control);

          const at::Tensor g0 = testing::as_double(g[0].cpu());
          const double norm = at::cat({g0, testing::as_double(g[1].cpu())}).norm().item<double>();
          const double factor = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
          const auto t = static_cast<double>(before + 1);
          const at::Tensor gc = g0 * factor;
          const at::Tensor m1 = testing::as_double(m0) * 0.9 + gc * 0.1;
          const at::Tensor v1 = testing::as_double(v0) * 0.95 + gc * gc * 0.05;
          const at::Tensor direction =
              (m1 / (1 - std::pow(0.9, t))) / ((v1 / (1 - std::pow(0.95, t))).sqrt() + 1e-8);
          const at::Tensor w1 = testing::as_double(w0) * (1 - lr * decay) - direction * lr;
          const std::string what = fmt::format("n={} clip {} decay {} t={}", n, clip, decay, t);
          const at::Tensor c = control.cpu();
          EXPECT_NEAR(c[StepControl::kGradientNorm].item<double>(), norm, 1e-6 * norm) << what;
          EXPECT_EQ(c[StepControl::kUpdates].item<float>(), static_cast<float>(t)) << what;
          EXPECT_EQ(c[StepControl::kSkipped].item<float>(), 0.0f) << what;
          expect_within(m.cpu(), m1, m1.abs() * 1e-6 + 1e-6, what + " m");
          expect_within(v.cpu(), v1, v1.abs() * 1e-6 + 1e-9, what + " v");
          expect_within(w.cpu(), w1, w1.abs() * 1e-6 + direction.abs() * (lr * 2e-5), what + " w");

          // A loss or gradient that is not finite: nothing moves, nothing is counted.
          for (const bool by_loss : {true, false}) {
            const at::Tensor kept = w.clone();
            std::vector<at::Tensor> bad = {g[0].clone(), g[1].clone()};
            if (by_loss) {
              control.select(0, StepControl::kLoss).fill_(std::nan(""));
            } else {
              control.select(0, StepControl::kLoss).fill_(1.0);
              bad[1][n] = std::numeric_limits<float>::infinity();
            }
            begin_step(bad, clip, settings.beta1, settings.beta2, control);
            adamw_step({{w, bad[0], m, v, decay}}, settings, control);
            expect_same_bits(w, kept, what + " skipped");
            EXPECT_EQ(control.cpu()[StepControl::kSkipped].item<float>(), 1.0f);
            EXPECT_EQ(control.cpu()[StepControl::kUpdates].item<float>(), static_cast<float>(t));
          }
        }
      }
    }
  }
}

// Block and thread of the order that adamw.h states, on the host.
double tree_of_threads(std::vector<double> threads) {
  double total = 0;
  for (size_t warp = 0; warp < threads.size(); warp += 32) {
    double* v = threads.data() + warp;
    for (size_t step = 16; step >= 1; step /= 2) {
      for (size_t i = 0; i < step; ++i) v[i] += v[i + step];
    }
    total = warp == 0 ? v[0] : total + v[0];
  }
  return total;
}

std::vector<double> squares_of_parts(const std::vector<float>& g) {
  constexpr int64_t kThreads = 256, kStride = gpu::kSquareBlocks * kThreads;
  const auto n = static_cast<int64_t>(g.size()), groups = n / 4;
  const auto squares = [&](int64_t group) {
    const float* v = g.data() + 4 * group;
    const float first = v[0] * v[0] + v[1] * v[1], last = v[2] * v[2] + v[3] * v[3];
    return first + last;
  };
  std::vector<double> parts;
  for (int64_t part = 0; part < gpu::kSquareBlocks; ++part) {
    std::vector<double> threads(kThreads);
    for (int64_t t = 0; t < kThreads; ++t) {
      double& sum = threads[static_cast<size_t>(t)];
      int64_t i = part * kThreads + t;
      for (; i + kStride < groups; i += 2 * kStride) {
        const float both = squares(i) + squares(i + kStride);
        sum += both;
      }
      for (; i < groups; i += kStride) sum += squares(i);
      if (part == 0 && t < n - 4 * groups) {
        const float last = g[static_cast<size_t>(4 * groups + t)];
        sum += last * last;
      }
    }
    parts.push_back(tree_of_threads(threads));
  }
  return parts;
}

double norm_of_parts(const std::vector<double>& parts) {
  std::vector<double> threads(256);
  for (size_t i = 0; i < parts.size(); ++i) threads[i % 256] += parts[i];
  return std::sqrt(tree_of_threads(threads));
}

// A tensor of n values on the GPU whose memory begins `shift` values behind an aligned place.
at::Tensor shifted(const at::Tensor& values, int64_t shift) {
  const at::Tensor memory = unwritten({values.numel() + shift}, at::kFloat);
  const at::Tensor out = memory.narrow(0, shift, values.numel());
  out.copy_(values);
  return out;
}

// Sizes of tensors that make more than one launch of either kernel; some of them empty.
std::vector<int64_t> many_sizes() {
  std::vector<int64_t> sizes = {0, 1, 3, 4, 5, 1021, 4096, 4097, 12289, 600001, 0};
  for (int64_t i = 0; i < 250; ++i) sizes.push_back((i * 7919) % 9001);
  return sizes;
}

TEST_F(CudaKernels, NormOfManyGradientsIsSummedInTheStatedOrder) {
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{}, {0}, {1}, {3}, {600001, 2}, many_sizes()}) {
    std::vector<at::Tensor> gradients;
    std::vector<double> parts;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const at::Tensor g = normal({sizes[i]}, i, at::kFloat);
      gradients.push_back(shifted(g, static_cast<int64_t>(i % 5 % 4)));
      const float* p = g.const_data_ptr<float>();
      for (const double part : squares_of_parts({p, p + sizes[i]})) parts.push_back(part);
    }
    const auto count = static_cast<int64_t>(sizes.size());
    const std::string what = fmt::format("{} tensors", count);
    std::vector<gpu::GradientValues> list;
    for (const at::Tensor& g : gradients) list.push_back({data<float>(g), g.numel()});
    const at::Tensor got = unwritten({count, gpu::kSquareBlocks}, at::kDouble);
    gpu::gradient_squares(list.data(), count, data<double>(got), current_stream());
    expect_same_bits(got.view(-1), at::tensor(parts, at::kDouble), what);

    const at::Tensor control = make_step_control();
    begin_step(gradients, 0, 0.9, 0.95, control);
    EXPECT_EQ(control.cpu()[StepControl::kGradientNorm].item<float>(),
              static_cast<float>(norm_of_parts(parts)))
        << what;
  }
}

// The same bits as each tensor by itself, aligned.
TEST_F(CudaKernels, AdamWOfManyTensorsIsThatOfEach) {
  const std::vector<int64_t> sizes = many_sizes();
  const AdamWStep settings{0.9, 0.95, 1e-8};
  const at::Tensor control = make_step_control();
  control.select(0, StepControl::kLearningRate).fill_(1e-2);
  const auto make = [&](size_t i, bool shift) {
    const auto one = [&](uint64_t what) {
      const at::Tensor values = normal({sizes[i]}, 4 * i + what, at::kFloat);
      // Each tensor of some, only one of others, none of the rest.
      const bool moved = shift && (i % 3 == 0 || i % 16 == what);
      return shifted(what == 3 ? values.square() : values, moved ? 1 + (i + what) % 3 : 0);
    };
    return AdamWTensors{one(0), one(1), one(2), one(3), i % 2 == 0 ? 0.1 : 0.0};
  };
  std::vector<AdamWTensors> together;
  std::vector<at::Tensor> gradients;
  for (size_t i = 0; i < sizes.size(); ++i) {
    together.push_back(make(i, true));
    gradients.push_back(together.back().gradient);
  }
  begin_step(gradients, 1.0, settings.beta1, settings.beta2, control);
  adamw_step(together, settings, control);
  adamw_step({}, settings, control);
  for (size_t i = 0; i < sizes.size(); ++i) {
    const AdamWTensors alone = make(i, false);
    adamw_step({alone}, settings, control);
    const std::string what = fmt::format("tensor {} of {} values", i, sizes[i]);
    expect_same_bits(together[i].weight, alone.weight, what);
    expect_same_bits(together[i].first, alone.first, what + ", first moment");
    expect_same_bits(together[i].second, alone.second, what + ", second moment");
    expect_same_bits(together[i].gradient, alone.gradient, what + ", gradient");
  }
}

}  // namespace
}  // namespace quest::ops
