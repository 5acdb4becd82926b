#include "quest/train/golden_trajectory.h"

#include <algorithm>
#include <cmath>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/safetensors.h"
#include "quest/nn/authors_layout.h"
#include "quest/ops/tensor_file.h"
#include "quest/train/optimizer.h"

namespace quest::train {
namespace {

// Relative tolerances of one mode.
struct Tolerances {
  double gradient_norm0, gradient_head, losses, gradient_norms, final_norms;
};

Tolerances tolerances_of(const QuantRecipe& recipe) {
  if (!recipe.is_quantized()) {
    return {1e-5, 1e-5, 1e-5, 1e-4, 1e-4};
  }
  const bool weights_only = !recipe.activation.is_quantized();
  return {1e-3, 2e-2, weights_only ? 5e-4 : 5e-3, 6e-2, 1e-2};
}
constexpr double kExact = 1e-5;  // first loss, logits
constexpr double kFlippedLogits = 5e-3;

struct Golden {
  std::filesystem::path folder;
  Json description;
  SafetensorsReader init;
};

// A member that is an object itself; `where` for errors.
const Json& section(const Json& object, const std::string& key, const std::string& where) {
  QUEST_CHECK(object.is_object() && object.contains(key) && object[key].is_object(),
              ErrorKind::kData, "{}: {} must be there and be an object", where, key);
  return object[key];
}

// {"format": "int4", "hadamard": true, "estimator": "trust", "trust_scale": 1, "clip_scale": 1}
QuantSpec read_side(const Json& side, bool rotated, const std::string& where) {
  const auto format = json_get<std::string>(side, "format", where);
  std::string text = format;
  if (json_get_or<bool>(side, "hadamard", false, where) || rotated) {
    text += ".hadamard";
  }
  if (format == "none") {
    return spec_from_string(text);
  }
  QuantSpec spec = spec_from_string(text + "." + json_get<std::string>(side, "estimator", where));
  spec.trust_scale = static_cast<float>(json_get_or<double>(side, "trust_scale", 1.0, where));
  spec.clip_scale = static_cast<float>(json_get_or<double>(side, "clip_scale", 1.0, where));
  return spec;
}

QuantRecipe read_mode(const Golden& golden, const std::string& mode) {
  const std::string file = (golden.folder / "golden.json").string(), where = file + " " + mode;
  const Json& description = section(golden.description, mode, file);
  const Json& weight = section(description, "weight", where);
  const Json& activation = section(description, "activation", where);
  const bool rotated = json_get_or<bool>(weight, "hadamard", false, where) ||
                       json_get_or<bool>(activation, "hadamard", false, where);
  QuantRecipe recipe{mode, read_side(weight, rotated, where),
                     read_side(activation, rotated, where)};
  validate(recipe);
  return recipe;
}

LlamaConfig read_shape(const Golden& golden) {
  const std::string file = (golden.folder / "golden.json").string(), where = file + " shapes";
  const Json& shapes = section(golden.description, "shapes", file);
  LlamaConfig config;
  config.vocab_size = json_get<int64_t>(shapes, "vocab", where);
  config.hidden_size = json_get<int64_t>(shapes, "n_embd", where);
  config.num_layers = json_get<int64_t>(shapes, "n_layer", where);
  config.num_heads = config.num_kv_heads = json_get<int64_t>(shapes, "n_head", where);
  QUEST_CHECK(config.num_heads > 0 && config.hidden_size % config.num_heads == 0, ErrorKind::kData,
              "{}: n_embd {} is no multiple of n_head {}", where, config.hidden_size,
              config.num_heads);
  config.head_dim = config.hidden_size / config.num_heads;
  config.max_position_embeddings = json_get<int64_t>(shapes, "seq", where);
  const TensorView& gate = golden.init.tensor("transformer.h.0.mlp.w1.weight");
  QUEST_CHECK(gate.shape.size() == 2, ErrorKind::kData, "{}: {} must be a matrix",
              golden.init.path().string(), gate.name);
  config.intermediate_size = gate.shape[0];
  return config;
}

at::Tensor tensor_as(const SafetensorsReader& file, const std::string& name, at::ScalarType type) {
  return ops::to_tensor(file.tensor(name)).to(type);
}

void load_init(const Golden& golden, nn::LlamaModel& model) {
  for (const nn::AuthorsTensor& t : nn::authors_tensors(model)) {
    const at::Tensor theirs = tensor_as(golden.init, t.name, t.parameter.scalar_type());
    at::Tensor rows = t.rows_of(t.parameter);
    QUEST_CHECK(theirs.sizes() == rows.sizes(), ErrorKind::kData,
                "{}: {} has {} elements, the model expects {}", golden.init.path().string(), t.name,
                theirs.numel(), rows.numel());
    rows.copy_(nn::from_authors_layout(t, theirs));
  }
}

double relative(double value, double golden) {
  return std::abs(value - golden) / std::max(std::abs(golden), 1e-30);
}

void judge(GoldenCase& c, double deviation, double tolerance, const std::string& what) {
  c.max_deviation = std::max(c.max_deviation, deviation);
  if (!(deviation <= tolerance) && c.status != GoldenStatus::kFail) {
    c.status = GoldenStatus::kFail;
    c.note = fmt::format("{}: {:.3g} > {:.3g}", what, deviation, tolerance);
  }
}

// One mode, from its file. The model is on the device; what is compared is copied to the CPU.
class Trajectory {
 public:
  Trajectory(const Golden& golden, const std::string& mode, at::Device device)
      : golden_(golden),
        mode_(mode),
        file_(golden.folder / (mode + ".safetensors")),
        recipe_(read_mode(golden, mode)),
        tolerances_(tolerances_of(recipe_)),
        config_(read_shape(golden)),
        tokens_(tensor_as(file_, "tokens", at::kLong)),
        model_(config_, recipe_, nn::ComputeType::kFloat32, device) {
    QUEST_CHECK(tokens_.dim() == 3 && tokens_.size(2) >= 2, ErrorKind::kData,
                "{}: tokens must be (steps, batch, T + 1)", file_.path().string());
    load_init(golden_, model_);
  }

  std::vector<GoldenCase> run() {
    std::vector<GoldenCase> cases = {check_logits()};
    train(cases);
    cases.push_back(check_final_norms());
    return cases;
  }

 private:
  GoldenCase make_case(const std::string& what) const {
    GoldenCase c;
    c.name = mode_ + "." + what;
    c.group = "llama";
    return c;
  }

  at::Tensor inputs(int64_t step) const {
    return tokens_[step].narrow(1, 0, tokens_.size(2) - 1).contiguous();
  }
  at::Tensor targets(int64_t step) const {
    return tokens_[step].narrow(1, 1, tokens_.size(2) - 1).contiguous();
  }

  double scalar(const std::string& name) const {
    const at::Tensor value = tensor_as(file_, name, at::kDouble);
    QUEST_CHECK(value.numel() == 1, ErrorKind::kData, "{}: {} has {} values, expected one",
                file_.path().string(), name, value.numel());
    return value.item<double>();
  }
  // One value per step.
  at::Tensor per_step(const std::string& name) const {
    const at::Tensor values = tensor_as(file_, name, at::kDouble);
    QUEST_CHECK(values.dim() == 1 && values.size(0) >= tokens_.size(0), ErrorKind::kData,
                "{}: {} must be a list of at least {} values, one for each step of tokens",
                file_.path().string(), name, tokens_.size(0));
    return values;
  }

  // (deviation relative to the largest |golden|, values beyond kExact)
  std::pair<double, int64_t> logits_deviation(nn::LlamaModel& model) const {
    const at::Tensor golden = tensor_as(file_, "step0.logits", at::kDouble);
    const at::Tensor logits = model.logits(inputs(0).narrow(0, 0, 1))[0].to(at::kDouble);
    QUEST_CHECK(logits.sizes() == golden.sizes(), ErrorKind::kData,
                "{}: step0.logits has {} values, expected {}", file_.path().string(),
                golden.numel(), logits.numel());
    const at::Tensor deviation = (logits - golden).abs() / golden.abs().max();
    return {deviation.max().item<double>(), deviation.gt(kExact).sum().item<int64_t>()};
  }

  GoldenCase check_logits() {
    GoldenCase c = make_case("logits");
    const auto [deviation, beyond] = logits_deviation(model_);
    c.values = file_.tensor("step0.logits").numel();
    if (beyond == 0) {
      judge(c, deviation, kExact, "logits");
      return c;
    }
    // Codes may have flipped in FP32: then the same case must be exact in FP64.
    nn::LlamaModel exact(config_, recipe_, nn::ComputeType::kFloat64);
    load_init(golden_, exact);
    const double exact_deviation = logits_deviation(exact).first;
    c.ties = beyond;
    c.note = fmt::format("FP64: {:.2g}", exact_deviation);
    judge(c, deviation, recipe_.is_quantized() ? kFlippedLogits : kExact, "logits in FP32");
    if (exact_deviation > kExact) {
      judge(c, exact_deviation, kExact, "logits in FP64");
    }
    return c;
  }

  void check_gradients(GoldenCase& c) const {
    for (const nn::AuthorsTensor& t : nn::authors_tensors(model_)) {
      const at::Tensor gradient =
          nn::to_authors_layout(t, t.rows_of(t.parameter.grad()).cpu()).to(at::kDouble).reshape(-1);
      const double golden_norm = scalar("step0.grad_norm." + t.name);
      judge(c, relative(gradient.norm().item<double>(), golden_norm), tolerances_.gradient_norm0,
            "norm of " + t.name);
      const at::Tensor golden = tensor_as(file_, "step0.grad_head." + t.name, at::kDouble).view(-1);
      QUEST_CHECK(golden.numel() <= gradient.numel(), ErrorKind::kData,
                  "{}: step0.grad_head.{} has {} values, the tensor {}", file_.path().string(),
                  t.name, golden.numel(), gradient.numel());
      const at::Tensor head = gradient.narrow(0, 0, golden.numel());
      const double scale = std::max(golden.abs().max().item<double>(), 1e-30);
      judge(c, (head - golden).abs().max().item<double>() / scale, tolerances_.gradient_head,
            "head of " + t.name);
      c.values += golden.numel() + 1;
    }
  }

  std::string optimizer_place() const {
    return (golden_.folder / "golden.json").string() + " optimizer";
  }
  const Json& optimizer_json() const {
    return section(golden_.description, "optimizer", (golden_.folder / "golden.json").string());
  }

  std::unique_ptr<Optimizer> make_adamw() const {
    const std::string where = optimizer_place();
    const Json& json = optimizer_json();
    const auto betas = json_get<std::vector<double>>(json, "betas", where);
    QUEST_CHECK(json_get<std::string>(json, "name", where) == "adamw" && betas.size() == 2,
                ErrorKind::kData, "{}: expected adamw with two betas", where);
    TrainConfig::Optimizer settings;
    settings.name = "adamw";
    settings.beta1 = betas[0];
    settings.beta2 = betas[1];
    settings.eps = json_get<double>(json, "eps", where);
    settings.weight_decay = json_get<double>(json, "weight_decay", where);
    return make_optimizer(settings, model_.parameters());
  }

  void train(std::vector<GoldenCase>& cases) {
    GoldenCase first = make_case("loss0"), gradients = make_case("gradients");
    GoldenCase losses = make_case("losses"), norms = make_case("grad_norms");
    const at::Tensor golden_losses = per_step("losses");
    const at::Tensor golden_norms = per_step("grad_norms");
    const at::Tensor rates = per_step("learning_rates");
    const auto clip = json_get<double>(optimizer_json(), "clip_norm", optimizer_place());
    const auto optimizer = make_adamw();
    for (int64_t step = 0; step < tokens_.size(0); ++step) {
      model_.zero_grad();
      const at::Tensor loss = model_.loss(inputs(step), targets(step));
      loss.backward();
      const double norm = gradient_norm(model_.parameters());
      const std::string at_step = fmt::format("step {}", step);
      const double loss_deviation =
          relative(loss.item<double>(), golden_losses[step].item<double>());
      if (step == 0) {
        judge(first, loss_deviation, kExact, at_step);
        first.values = 1;
        check_gradients(gradients);
      }
      judge(losses, loss_deviation, step == 0 ? kExact : tolerances_.losses, at_step);
      judge(norms, relative(norm, golden_norms[step].item<double>()), tolerances_.gradient_norms,
            at_step);
      clip_gradients(model_.parameters(), norm, clip);
      optimizer->step(rates[step].item<double>());
    }
    losses.values = norms.values = tokens_.size(0);
    cases.insert(cases.end(), {first, gradients, losses, norms});
  }

  GoldenCase check_final_norms() const {
    GoldenCase c = make_case("final_norms");
    for (const nn::AuthorsTensor& t : nn::authors_tensors(model_)) {
      const double golden = scalar("final_norm." + t.name);
      const double norm = t.rows_of(t.parameter).cpu().to(at::kDouble).norm().item<double>();
      judge(c, relative(norm, golden), tolerances_.final_norms, t.name);
      ++c.values;
    }
    return c;
  }

  const Golden& golden_;
  std::string mode_;
  SafetensorsReader file_;
  QuantRecipe recipe_;
  Tolerances tolerances_;
  LlamaConfig config_;
  at::Tensor tokens_;  // (steps, B, T + 1)
  nn::LlamaModel model_;
};

}  // namespace

std::vector<GoldenCase> run_trajectory_golden(const std::filesystem::path& folder,
                                              at::Device device) {
  std::vector<std::string> modes;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().stem().string();
    if (entry.path().extension() == ".safetensors" && name.starts_with("llama_") &&
        name != "llama_init") {
      modes.push_back(name);
    }
  }
  std::sort(modes.begin(), modes.end());
  if (modes.empty()) {
    return {};
  }
  const Golden golden{folder, read_json(folder / "golden.json"),
                      SafetensorsReader(folder / "llama_init.safetensors")};
  if (device.is_cuda()) at::globalContext().setAllowTF32CuBLAS(false);
  std::vector<GoldenCase> cases;
  for (const std::string& mode : modes) {
    const std::vector<GoldenCase> of_mode = Trajectory(golden, mode, device).run();
    cases.insert(cases.end(), of_mode.begin(), of_mode.end());
  }
  return cases;
}

}  // namespace quest::train
