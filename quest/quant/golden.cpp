#include "quest/quant/golden.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>

#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/safetensors.h"
#include "quest/quant/decision.h"
#include "quest/quant/golden_tie.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/quantizer.h"

namespace quest {
namespace {

constexpr std::string_view kGroup = "quantizers";
constexpr std::string_view kFileName = "quantizers.safetensors";
constexpr double kTolerance = 1e-5;
constexpr double kTieFraction = 1e-3;

struct Inputs {
  std::vector<float> x, grad_out;
  size_t rows = 0, k = 0;
};

void fail(GoldenCase& result, std::string note) {
  result.status = GoldenStatus::kFail;
  if (result.note.empty()) result.note = std::move(note);
}

Inputs read_inputs(const SafetensorsReader& file) {
  const TensorView& x = file.tensor("x");
  const TensorView& grad_out = file.tensor("grad_out");
  QUEST_CHECK(x.shape.size() == 2 && x.shape[0] > 0 && x.shape[1] > 0, ErrorKind::kData,
              "{}: x must have two dimensions (rows, values) above 0", file.path().string());
  QUEST_CHECK(grad_out.shape == x.shape, ErrorKind::kData, "{}: grad_out has another shape than x",
              file.path().string());
  return {x.to_vector<float>(), grad_out.to_vector<float>(), static_cast<size_t>(x.shape[0]),
          static_cast<size_t>(x.shape[1])};
}

// The golden tensor of a case, or null with the reason in the result.
const TensorView* golden_tensor(const SafetensorsReader& file, const std::string& name,
                                const std::vector<int64_t>& shape, GoldenCase& result) {
  if (!file.contains(name)) {
    fail(result, fmt::format("{} is missing", name));
    return nullptr;
  }
  const TensorView& tensor = file.tensor(name);
  if (tensor.dtype != DType::kF32 || tensor.shape != shape) {
    fail(result, fmt::format("{} is not F32 of the expected shape", name));
    return nullptr;
  }
  return &tensor;
}

std::vector<double> to_compared_basis(std::span<const float> row, bool hadamard) {
  std::vector<double> values(row.begin(), row.end());
  if (hadamard) hadamard_transform<double>(values);
  return values;
}

double largest(std::span<const double> row) {
  double value = 0;
  for (const double v : row) value = std::max(value, std::abs(v));
  return value;
}

// Differences of one row, relative to the row's largest |golden|; infinite where that is 0 (or a
// value is not finite) and the two differ.
std::vector<double> row_deviation(std::span<const float> ours, std::span<const float> golden,
                                  bool hadamard) {
  const std::vector<double> a = to_compared_basis(ours, hadamard);
  const std::vector<double> b = to_compared_basis(golden, hadamard);
  const double scale = largest(b);
  std::vector<double> deviation(a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    const double relative = difference == 0 ? 0 : difference / scale;
    deviation[i] = std::isfinite(relative) ? relative : std::numeric_limits<double>::infinity();
  }
  return deviation;
}

void compare_values(const QuantSpec& spec, const Inputs& in, const QuantizerResult& ours,
                    std::span<const float> golden_y, std::span<const float> golden_grad,
                    GoldenCase& result) {
  result.values = static_cast<int64_t>(in.rows * in.k);
  for (size_t r = 0; r < in.rows; ++r) {
    const size_t at = r * in.k;
    if (std::isnan(ours.units[r])) return fail(result, fmt::format("row {} has no finite rms", r));
    const std::span<const float> y(&ours.y[at], in.k);
    const std::span<const float> grad(&ours.grad_x[at], in.k);
    const auto y_off = row_deviation(y, golden_y.subspan(at, in.k), spec.hadamard);
    const auto grad_off = row_deviation(grad, golden_grad.subspan(at, in.k), spec.hadamard);
    const TieRow tie(spec, std::span(in.x).subspan(at, in.k));
    for (size_t i = 0; i < in.k; ++i) {
      const double off = std::max(y_off[i], grad_off[i]);
      if (off > kTolerance && tie(i)) {
        ++result.ties;
        continue;
      }
      result.max_deviation = std::max(result.max_deviation, off);
      if (off > kTolerance) {
        fail(result,
             fmt::format("row {} value {}: {} differs by {:.3g} of the row's largest, allowed {}",
                         r, i, y_off[i] > kTolerance ? "y" : "grad_x", off, kTolerance));
      }
    }
  }
  if (result.ties > 0 &&
      static_cast<double>(result.ties) >= kTieFraction * static_cast<double>(result.values)) {
    fail(result, fmt::format("{} ties of {} values, allowed are fewer than {} %", result.ties,
                             result.values, 100 * kTieFraction));
  }
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

void compare_implementations(const QuantSpec& spec, const Inputs& in, const QuantizerResult& scalar,
                             std::span<const QuantizerImplementation> others, GoldenCase& result) {
  for (const QuantizerImplementation& other : others) {
    const auto theirs = other.run(spec, in.x, in.grad_out, static_cast<int64_t>(in.rows),
                                  static_cast<int64_t>(in.k));
    if (!theirs) continue;
    const auto check = [&](bool same, std::string_view what) {
      if (!same)
        fail(result, fmt::format("{} of {} differ from the scalar definition", what, other.name));
    };
    check(same_bits(theirs->codes, scalar.codes), "codes");
    check(same_bits(theirs->units, scalar.units), "units");
    check(same_bits(theirs->mask, scalar.mask), "masks");
    check(same_bits(theirs->y, scalar.y), "values");
    check(same_bits(theirs->grad_x, scalar.grad_x), "gradients");
  }
}

GoldenCase run_case(const SafetensorsReader& file, const Inputs& in, const std::string& name,
                    std::span<const QuantizerImplementation> others) {
  GoldenCase result;
  result.name = name;
  result.group = kGroup;
  try {
    const QuantSpec spec = spec_from_string(name);
    const std::vector<int64_t>& shape = file.tensor("x").shape;
    const TensorView* y = golden_tensor(file, name + ".y", shape, result);
    const TensorView* grad_x = golden_tensor(file, name + ".grad_x", shape, result);
    if (y == nullptr || grad_x == nullptr) return result;
    const QuantizerResult ours = run_scalar_quantizer(
        spec, in.x, in.grad_out, static_cast<int64_t>(in.rows), static_cast<int64_t>(in.k));
    compare_values(spec, in, ours, y->to_vector<float>(), grad_x->to_vector<float>(), result);
    compare_implementations(spec, in, ours, others, result);
  } catch (const Error& error) {
    fail(result, error.what());
  }
  return result;
}

GoldenCase run_levels(const SafetensorsReader& file, const std::string& name, int bits) {
  GoldenCase result;
  result.name = name;
  result.group = kGroup;
  const std::span<const float> ours = gaussian_levels(bits, false);
  const TensorView* tensor = golden_tensor(file, name, {static_cast<int64_t>(ours.size())}, result);
  if (tensor == nullptr) return result;
  result.values = tensor->numel();
  const std::vector<double> deviation = row_deviation(ours, tensor->to_vector<float>(), false);
  result.max_deviation = *std::max_element(deviation.begin(), deviation.end());
  if (result.max_deviation > kTolerance) fail(result, "the levels differ");
  return result;
}

// "gauss3.levels" -> 3, or 0.
int levels_bits(std::string_view name) {
  constexpr std::string_view kStart = "gauss", kEnd = ".levels";
  if (name.size() != kStart.size() + 1 + kEnd.size()) return 0;
  if (!name.starts_with(kStart) || !name.ends_with(kEnd)) return 0;
  const int bits = name[kStart.size()] - '0';
  return bits >= 1 && bits <= 4 ? bits : 0;
}

GoldenCase run_trust_limit(const std::string& name, const Json& value) {
  GoldenCase result;
  result.name = name;
  result.group = kGroup;
  result.values = 1;
  try {
    const QuantSpec spec = spec_from_string(std::string_view(name).substr(0, name.rfind('.')));
    const double golden = value.get<double>();
    // At rms 1 the limit is in units of rms, but for the 1e-8 added to it.
    const double ours = row_constants<double>(spec, 1.0).trust_limit;
    result.max_deviation = std::abs(ours - golden) / std::abs(golden);
    if (!(result.max_deviation <= kTolerance)) {
      fail(result, fmt::format("the trust limit is {} x rms, golden {}", ours, golden));
    }
  } catch (const Error& error) {
    fail(result, error.what());
  }
  return result;
}

// The part of a tensor's name that is its case, or an empty text if it belongs to no case.
std::string case_of(const std::string& tensor_name) {
  for (const std::string_view suffix : {".y", ".grad_x"}) {
    if (tensor_name.ends_with(suffix)) {
      return tensor_name.substr(0, tensor_name.size() - suffix.size());
    }
  }
  return {};
}

}  // namespace

std::string learned_case_of(const std::string& tensor_name) {
  const size_t lsq = tensor_name.find(".lsq");
  if (lsq == std::string::npos) return {};
  return tensor_name.substr(0, tensor_name.find('.', lsq + 1));
}

QuantizerResult run_scalar_quantizer(const QuantSpec& spec, std::span<const float> x,
                                     std::span<const float> grad_out, int64_t rows, int64_t k) {
  const size_t size = static_cast<size_t>(k), mask_size = (size + 7) / 8;
  const size_t total = static_cast<size_t>(rows) * size;
  const bool has_codes = spec.grid != Grid::kNone && spec.grid != Grid::kMask4of8;
  QuantizerResult out;
  out.y.resize(total);
  out.grad_x.assign(grad_out.begin(), grad_out.end());
  out.codes.resize(has_codes ? total : 0);
  out.units.resize(static_cast<size_t>(rows));
  out.mask.resize(static_cast<size_t>(rows) * mask_size);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    const std::span<float> y(&out.y[r * size], size);
    const std::span<float> grad(&out.grad_x[r * size], size);
    const std::span<uint8_t> mask(&out.mask[r * mask_size], mask_size);
    RowOutput<float> row;
    row.values = y;
    row.mask = mask;
    if (has_codes) row.codes = {&out.codes[r * size], size};
    out.units[r] = quantize_row<float>(spec, x.subspan(r * size, size), row);
    if (spec.hadamard) {
      hadamard_transform(y);
      hadamard_transform(grad);  // y = q H, so the gradient of q is the gradient of y times H
    }
    quantize_row_backward<float>(spec, mask, grad, grad);
  }
  return out;
}

std::vector<GoldenCase> run_quantizer_golden(const std::filesystem::path& folder,
                                             std::span<const QuantizerImplementation> others,
                                             std::span<const GoldenCase> learned_results) {
  const SafetensorsReader file(folder / kFileName);
  const Inputs in = read_inputs(file);
  std::set<std::string> names, learned;
  std::vector<GoldenCase> results;
  for (const TensorView& tensor : file.tensors()) {
    const std::string& name = tensor.name;
    if (name == "x" || name == "grad_out") continue;
    if (const int bits = levels_bits(name); bits != 0) {
      results.push_back(run_levels(file, name, bits));
    } else if (const std::string step_case = learned_case_of(name); !step_case.empty()) {
      learned.insert(step_case);
    } else if (const std::string plain_case = case_of(name); !plain_case.empty()) {
      names.insert(plain_case);
    } else {
      results.push_back({name, std::string(kGroup), 0, 0, 0, GoldenStatus::kFail,
                         "a tensor of this name belongs to no case"});
    }
  }
  for (const std::string& name : names) results.push_back(run_case(file, in, name, others));
  for (const std::string& name : learned) {
    const auto judged = std::find_if(learned_results.begin(), learned_results.end(),
                                     [&](const GoldenCase& c) { return c.name == name; });
    results.push_back(judged != learned_results.end()
                          ? *judged
                          : GoldenCase{name, std::string(kGroup), 0, 0, 0, GoldenStatus::kSkipped,
                                       "learned steps need torch: quest selftest judges them"});
  }
  if (const std::filesystem::path limits = folder / "golden.json";
      std::filesystem::exists(limits)) {
    const Json json = read_json(limits);
    for (const auto& [key, value] : json.items()) {
      if (key.ends_with(".trust") && value.is_number())
        results.push_back(run_trust_limit(key, value));
    }
  }
  std::sort(results.begin(), results.end(),
            [](const GoldenCase& a, const GoldenCase& b) { return a.name < b.name; });
  return results;
}

}  // namespace quest
