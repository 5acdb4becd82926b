#include "quest/ops/golden_learned.h"

#include <cmath>
#include <set>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/maximum.h>

#include "quest/base/error.h"
#include "quest/base/safetensors.h"
#include "quest/ops/baselines.h"
#include "quest/ops/tensor_file.h"

namespace quest::ops {
namespace {

constexpr double kTolerance = 1e-5, kGradientTolerance = 1e-4;
constexpr double kTieMove = 4e-7, kTieFraction = 1e-3;

class LearnedGolden {
 public:
  LearnedGolden(const SafetensorsReader& file, at::Device device)
      : file_(file), device_(device), x_(read("x")), grad_(read("grad_out")) {}

  GoldenCase run(const std::string& name) {
    result_ = {};
    result_.name = name;
    result_.group = "quantizers";
    try {
      run_case(name);
    } catch (const Error& error) {
      fail(error.what());
    }
    return result_;
  }

 private:
  at::Tensor read(const std::string& name) const {
    return to_tensor(file_.tensor(name)).to(at::kFloat).to(device_);
  }

  void fail(const std::string& why) {
    result_.status = GoldenStatus::kFail;
    if (result_.note.empty()) result_.note = why;
  }

  void run_case(const std::string& name) {
    const int bits = name[3] - '0';
    QUEST_CHECK(name.starts_with("int") && bits >= 1 && bits <= 8 && name[4] == '.',
                ErrorKind::kData, "no such format");
    const std::string kind = name.substr(5);
    const bool plus = kind == "lsq_plus_weight" || kind == "lsq_plus_activation";
    QUEST_CHECK(plus || kind == "lsq", ErrorKind::kData, "no such quantizer");
    const at::Tensor first = plus ? lsq_plus_first_step(x_, bits) : lsq_first_step(x_, bits);
    compare_number(name + ".alpha_weight", first);
    // From the golden values on: a rounding error of the step would move codes.
    at::Tensor step = read(name + ".alpha_weight").set_requires_grad(true), offset;
    if (kind == "lsq_plus_activation") {
      compare_number(name + ".beta_weight", lsq_plus_first_offset(x_, step.detach(), bits));
      offset = read(name + ".beta_weight").set_requires_grad(true);
    }
    const at::Tensor x = x_.clone().set_requires_grad(true);
    const at::Tensor y = lsq(x, step, offset, bits);
    y.backward(grad_);
    compare_rows(name, y.detach(), x.grad(), ties(step.detach(), offset, bits));
    compare_gradient(name + ".grad_alpha_weight", step.grad(), bits);
    if (offset.defined()) compare_gradient(name + ".grad_beta_weight", offset.grad(), bits);
  }

  // Values that a small move of x decides otherwise.
  at::Tensor ties(const at::Tensor& step, const at::Tensor& offset, int bits) const {
    const at::Tensor move = kTieMove * x_.abs().amax({1}, /*keepdim=*/true);
    const auto decided = [&](const at::Tensor& x) {
      const at::Tensor leaf = x.detach().clone().set_requires_grad(true);
      const at::Tensor y = lsq(leaf, step, offset.defined() ? offset.detach() : offset, bits);
      y.sum().backward();
      return std::pair(y.detach(), leaf.grad());
    };
    const auto [up, up_inside] = decided(x_ + move);
    const auto [down, down_inside] = decided(x_ - move);
    return (up != down).logical_or(up_inside != down_inside);
  }

  void compare_rows(const std::string& name, const at::Tensor& y, const at::Tensor& grad_x,
                    const at::Tensor& tied) {
    const auto deviation = [](const at::Tensor& ours, const at::Tensor& golden) {
      const at::Tensor size = golden.abs().amax({1}, /*keepdim=*/true).clamp_min(1e-30);
      return (ours - golden).abs() / size;
    };
    const at::Tensor off =
        at::maximum(deviation(y, read(name + ".y")), deviation(grad_x, read(name + ".grad_x")));
    const at::Tensor differs = (off <= kTolerance).logical_not();  // NaN differs
    result_.values = off.numel();
    result_.ties = differs.logical_and(tied).sum().item<int64_t>();
    const at::Tensor counted = off.masked_fill(differs.logical_and(tied), 0);
    note_deviation(counted.max().item<double>(), kTolerance, "y or grad_x");
    if (result_.ties > 0 &&
        static_cast<double>(result_.ties) >= kTieFraction * static_cast<double>(result_.values)) {
      fail(fmt::format("{} ties of {} values", result_.ties, result_.values));
    }
  }

  void compare_number(const std::string& name, const at::Tensor& ours) {
    const double golden = read(name).item<double>();
    note_deviation(std::abs(ours.item<double>() - golden) / std::abs(golden), kTolerance, name);
  }

  // A sum over all values: its rounding errors are relative to the terms.
  void compare_gradient(const std::string& name, const at::Tensor& ours, int bits) {
    const double golden = read(name).item<double>();
    const double terms = grad_.abs().sum().item<double>() * std::exp2(bits - 1) /
                         std::sqrt(static_cast<double>(grad_.numel()));
    const double allowed = kGradientTolerance * terms;
    const double off = std::abs(ours.item<double>() - golden);
    if (!(off <= allowed)) {
      fail(fmt::format("{} is {}, golden {}", name, ours.item<double>(), golden));
    }
  }

  void note_deviation(double off, double allowed, const std::string& what) {
    result_.max_deviation = std::max(result_.max_deviation, off);
    if (!(off <= allowed))
      fail(fmt::format("{} differs by {:.3g}, allowed {}", what, off, allowed));
  }

  const SafetensorsReader& file_;
  at::Device device_;
  at::Tensor x_, grad_;
  GoldenCase result_;
};

}  // namespace

std::vector<GoldenCase> run_learned_golden(const std::filesystem::path& folder, at::Device device) {
  const SafetensorsReader file(folder / "quantizers.safetensors");
  std::set<std::string> names;
  for (const TensorView& tensor : file.tensors()) names.insert(learned_case_of(tensor.name));
  names.erase("");
  std::vector<GoldenCase> results;
  LearnedGolden golden(file, device);
  for (const std::string& name : names) results.push_back(golden.run(name));
  return results;
}

}  // namespace quest::ops
