#include "quest/train/diagnostics.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>

#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/six_digits.h"
#include "quest/ops/gpu_errors.h"
#include "quest/ops/quantized_tensor.h"

namespace quest::train {
namespace {

constexpr const char* kMasksName = "masks.safetensors";
constexpr int64_t kFp8Rows = 16;  // FP8 backward products take tokens in multiples of it

// A model whose layers are watched and whose quantizers may be off: as it was when this ends.
class Watched {
 public:
  explicit Watched(nn::LlamaModel& model) : model_(model), recompute_(model.recompute()) {
    model_.set_recompute(nn::Recompute::kOff);
  }
  ~Watched() {
    model_.set_recompute(recompute_);
    for (nn::QuantLinear* layer : model_.layers()) {
      layer->watch({});
      layer->quantize(true);
    }
  }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

 private:
  nn::LlamaModel& model_;
  nn::Recompute recompute_;
};

// (B,T) inputs and targets of the file's first windows.
std::pair<at::Tensor, at::Tensor> first_windows(const TokenFile& file, const TrainConfig& config) {
  const int64_t available = file.token_count() - 1;
  const int64_t multiple = config.train.backward == "fp8" ? kFp8Rows : 1;
  const int64_t length = std::min(config.train.sequence_length, available) / multiple * multiple;
  QUEST_CHECK(length > 0, ErrorKind::kData,
              "{} has {} tokens, train.sequence_length is {}: diagnostics need at least {} and one "
              "more (set diagnostics.every to 0)",
              file.path().string(), available + 1, config.train.sequence_length, multiple);
  const int64_t batch = std::min(config.diagnostics.batch_size, available / length);
  std::vector<int32_t> ids(static_cast<size_t>(batch * length + 1));
  file.read(0, ids);
  const auto tensor = [&](int64_t shift) {
    at::Tensor out = at::empty({batch, length}, at::kLong);
    std::copy_n(ids.begin() + shift, batch * length, out.data_ptr<int64_t>());
    return out;
  };
  return {tensor(0), tensor(1)};
}

// Appends cos(a, b) of each token: a, b (1,T,C).
void add_cosines(const at::Tensor& a, const at::Tensor& b, std::vector<double>& cosines) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  const at::Tensor product = (x * y).sum(-1).cpu().view(-1);
  const at::Tensor norms = (x.square().sum(-1) * y.square().sum(-1)).sqrt().cpu().view(-1);
  for (int64_t t = 0; t < product.numel(); ++t) {
    const double norm = norms.const_data_ptr<double>()[t];
    if (norm != 0) cosines.push_back(product.const_data_ptr<double>()[t] / norm);
  }
}

nlohmann::ordered_json cosine_json(size_t part, const std::vector<double>& cosines) {
  nlohmann::ordered_json out = {{"block", part / 2}, {"part", part % 2 == 0 ? "attn" : "mlp"}};
  if (cosines.empty()) return out;
  const double count = static_cast<double>(cosines.size());
  double sum = 0, squares = 0;
  for (const double c : cosines) sum += c;
  for (const double c : cosines) squares += (c - sum / count) * (c - sum / count);
  out["mean"] = six_digits(sum / count);
  out["std"] = six_digits(std::sqrt(squares / count));
  return out;
}

SideStatistics statistics_of(nn::QuantLinear& layer, bool is_weight) {
  const QuantSpec& spec = is_weight ? layer.recipe().weight : layer.recipe().activation;
  const std::string name = layer.name() + (is_weight ? ".weight" : ".input");
  if (spec.registered == nullptr) return SideStatistics(spec, name);
  return SideStatistics(
      spec, name,
      [&layer, is_weight](const at::Tensor& x) { return layer.registered_values(is_weight, x); },
      [&layer, is_weight](const at::Tensor& x) { return layer.registered_codes(is_weight, x); });
}

}  // namespace

Diagnostics::Diagnostics(nn::LlamaModel& model, const TokenFile& file, const TrainConfig& config)
    : model_(model),
      layers_(model.layers()),
      every_(config.diagnostics.every),
      masks_(config.diagnostics.keep_masks) {
  QUEST_ASSERT(every_ > 0, "diagnostics every {} steps", every_);
  std::tie(tokens_, targets_) = first_windows(file, config);
}

std::vector<at::Tensor> Diagnostics::residual_gradients(int64_t sequence,
                                                        std::vector<SideStatistics>* inputs) {
  const at::AutoGradMode enable(true);
  std::vector<at::Tensor> residuals;
  for (size_t k = 0; k < layers_.size(); ++k) {
    layers_[k]->watch([&residuals, inputs, k](const nn::LayerInput& input) {
      if (inputs != nullptr) (*inputs)[k].add(input.values);
      if (input.residual.defined()) residuals.push_back(input.residual);
    });
  }
  const at::Tensor loss =
      model_.loss(tokens_.narrow(0, sequence, 1), targets_.narrow(0, sequence, 1));
  // Not backward(): the gradients of the parameters stay as they are.
  return torch::autograd::grad({loss}, residuals);
}

void Diagnostics::measure_weights(Measured& m) const {
  for (nn::QuantLinear* layer : layers_) {
    const QuantSpec& spec = layer->recipe().weight;
    m.weights.push_back(statistics_of(*layer, /*is_weight=*/true));
    m.weights.back().add(layer->weight(), &m.mask_bits);
    if (ops::has_gradient_mask(spec)) m.masked_weights += layer->weight().numel();
  }
}

void Diagnostics::measure_batch(Measured& m) {
  for (nn::QuantLinear* layer : layers_) {
    m.inputs.push_back(statistics_of(*layer, /*is_weight=*/false));
  }
  const Watched watched(model_);
  for (int64_t sequence = 0; sequence < tokens_.size(0); ++sequence) {
    for (nn::QuantLinear* layer : layers_) layer->quantize(true);
    const std::vector<at::Tensor> gradients = residual_gradients(sequence, &m.inputs);
    for (nn::QuantLinear* layer : layers_) layer->quantize(false);
    const std::vector<at::Tensor> plain = residual_gradients(sequence, nullptr);
    m.cosines.resize(gradients.size());
    for (size_t part = 0; part < gradients.size(); ++part) {
      add_cosines(gradients[part], plain[part], m.cosines[part]);
    }
  }
}

Diagnostics::Report Diagnostics::measure(int64_t step) {
  Measured m;
  ops::with_gpu_errors(model_.device(), "a smaller diagnostics.batch_size needs less", [&] {
    measure_weights(m);
    measure_batch(m);
  });

  Report report;
  nlohmann::ordered_json layers = nlohmann::ordered_json::array(), cosines = layers;
  for (size_t k = 0; k < layers_.size(); ++k) {
    layers.push_back({{"name", layers_[k]->name()},
                      {"weight", m.weights[k].json()},
                      {"input", m.inputs[k].json()}});
    for (const SideStatistics* side : {&m.weights[k], &m.inputs[k]}) {
      for (Histogram& h : side->histograms()) report.histograms.push_back(std::move(h));
    }
  }
  for (size_t part = 0; part < m.cosines.size(); ++part) {
    cosines.push_back(cosine_json(part, m.cosines[part]));
  }
  report.json = {{"layers", std::move(layers)}, {"gradient_cosine", std::move(cosines)}};
  if (m.masked_weights == 0) return report;
  for (const MaskHistory::Retained& r : masks_.retained(m.mask_bits, m.masked_weights)) {
    report.json["masks_retained"].push_back(
        {{"since_step", r.since_step}, {"retained", six_digits(r.retained)}});
  }
  masks_.add(step, m.mask_bits);
  return report;
}

void Diagnostics::save(const std::filesystem::path& checkpoint) const {
  masks_.save(checkpoint / kMasksName);
}

void Diagnostics::load(const std::filesystem::path& checkpoint) {
  int64_t bytes = 0;
  for (const nn::QuantLinear* layer : layers_) {
    if (!ops::has_gradient_mask(layer->recipe().weight)) continue;
    bytes += layer->weight().size(0) * ((layer->weight().size(1) + 7) / 8);
  }
  masks_.load(checkpoint / kMasksName, bytes);
}

std::string diagnostics_plan(const TrainConfig& config, const LlamaConfig& model, int64_t steps) {
  const TrainConfig::Diagnostics& d = config.diagnostics;
  if (d.every == 0) return "";
  // Forward and the gradient of activations, not of weights, with and without quantizers.
  const int64_t times = steps / d.every + 1;
  const double share = 4.0 / 3 * static_cast<double>(d.batch_size * times) /
                       static_cast<double>(config.train.batch_size * std::max<int64_t>(steps, 1));
  int64_t weights = 0;
  if (ops::has_gradient_mask(config.quant.weight)) {
    weights = model.non_embedding_parameters();
  }
  return fmt::format(
      "{} ({} and before the first): {} twice, at most {:.2g} % of the training's products; memory "
      "{} for masks of {}",
      format_count(times, "time"),
      d.every == 1 ? "after every step" : fmt::format("every {} steps", d.every),
      format_count(d.batch_size, "sequence"), 100 * share,
      format_quantity(static_cast<double>(weights * d.keep_masks / 8), "B"),
      format_count(d.keep_masks, "step"));
}

}  // namespace quest::train
