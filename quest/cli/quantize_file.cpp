#include "quest/cli/quantize_file.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <fnmatch.h>
#include <map>

#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/safetensors.h"
#include "quest/base/shutdown.h"
#include "quest/base/thread_pool.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/quant/grid_statistics.h"
#include "quest/quant/quantizer.h"

namespace quest::cli {
namespace {

constexpr int64_t kRowsPerTask = 16;
constexpr size_t kHistogramBins = 16;

bool is_floating(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32 ||
         dtype == DType::kF64;
}

bool has_codes(const QuantSpec& spec) {
  return spec.grid != Grid::kNone && spec.grid != Grid::kMask4of8;
}

// Everything that is written of one tensor.
struct QuantizedTensor {
  std::vector<float> values, values_rotated, scales, grad;
  std::vector<int8_t> codes;
  std::vector<uint8_t> mask;
};

struct Shape {
  int64_t rows, k;
  int64_t mask_size() const { return (k + 7) / 8; }
};

Shape shape_of(const TensorView& tensor, const QuantSpec& spec) {
  QUEST_CHECK(
      is_floating(tensor.dtype), ErrorKind::kData,
      "tensor {} is {}: only F16, BF16, F32 and F64 can be quantized; choose others with --tensors",
      tensor.name, dtype_name(tensor.dtype));
  QUEST_CHECK(!tensor.shape.empty() && tensor.numel() > 0, ErrorKind::kData,
              "tensor {} has no rows of values; choose others with --tensors", tensor.name);
  const Shape shape{tensor.numel() / tensor.shape.back(), tensor.shape.back()};
  try {
    check_row_size(spec, shape.k);
  } catch (const Error& error) {
    QUEST_THROW(error.kind(), "tensor {}: {}", tensor.name, error.what());
  }
  return shape;
}

// Codes, scales, masks and rotated values of some rows; the first row that is not finite, or -1.
int64_t quantize_rows(const QuantSpec& spec, const float* x, const Shape& shape, int64_t first,
                      int64_t rows, QuantizedTensor& out) {
  const int64_t k = shape.k, at = first * k;
  uint8_t* mask = out.mask.data() + first * shape.mask_size();
  if (has_codes(spec)) {
    const int64_t bad = kernels::hadamard_quantize(spec, x + at, rows, k, out.codes.data() + at,
                                                   out.scales.data() + first, mask);
    if (bad >= 0) return first + bad;
    kernels::dequantize_rows(spec, out.codes.data() + at, out.scales.data() + first, rows, k,
                             out.values_rotated.data() + at);
    return -1;
  }
  for (int64_t r = 0; r < rows; ++r) {
    RowOutput<float> row;
    row.mask = {mask + r * shape.mask_size(), static_cast<size_t>(shape.mask_size())};
    row.values = {out.values_rotated.data() + at + r * k, static_cast<size_t>(k)};
    const std::span<const float> x_row(x + at + r * k, static_cast<size_t>(k));
    out.scales[static_cast<size_t>(first + r)] = quantize_row<float>(spec, x_row, row);
    const bool finite =
        std::all_of(row.values.begin(), row.values.end(), [](float v) { return std::isfinite(v); });
    if (!finite || std::isnan(out.scales[static_cast<size_t>(first + r)])) return first + r;
  }
  return -1;
}

// Back to the basis of the tensor, and the gradient through the quantizer, of some rows.
void rotate_and_backward(const QuantSpec& spec, const Shape& shape, int64_t first, int64_t rows,
                         QuantizedTensor& out) {
  const int64_t k = shape.k, at = first * k;
  float* values = out.values.data() + at;
  std::copy_n(out.values_rotated.data() + at, rows * k, values);
  if (spec.hadamard) kernels::hadamard_rows(values, rows, k, values);
  if (out.grad.empty()) return;
  float* grad = out.grad.data() + at;
  if (spec.hadamard) kernels::hadamard_rows(grad, rows, k, grad);
  kernels::mask_hadamard(spec, grad, out.mask.data() + first * shape.mask_size(), rows, k, grad);
}

QuantizedTensor quantize_tensor(const QuantSpec& spec, const std::string& name,
                                const std::vector<float>& x, const Shape& shape,
                                std::vector<float> grad, ThreadPool& pool) {
  QuantizedTensor out;
  out.values.resize(x.size());
  out.values_rotated.resize(x.size());
  out.scales.resize(static_cast<size_t>(shape.rows));
  out.codes.resize(has_codes(spec) ? x.size() : 0);
  out.mask.resize(static_cast<size_t>(shape.rows * shape.mask_size()));
  out.grad = std::move(grad);
  const int64_t tasks = (shape.rows + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<int64_t> bad_rows(static_cast<size_t>(tasks), -1);
  pool.parallel_for(tasks, [&](int64_t task) {
    const int64_t first = task * kRowsPerTask, rows = std::min(kRowsPerTask, shape.rows - first);
    bad_rows[static_cast<size_t>(task)] = quantize_rows(spec, x.data(), shape, first, rows, out);
    rotate_and_backward(spec, shape, first, rows, out);
  });
  for (const int64_t row : bad_rows) {
    QUEST_CHECK(
        row < 0, ErrorKind::kNumeric,
        "tensor {} row {} has no finite root mean square: it holds a NaN, an infinity or values "
        "whose squares leave the range of float",
        name, row);
  }
  return out;
}

// Every code of the grid, so that the bins of all tensors are the same.
std::map<int8_t, int64_t> empty_counts(const QuantSpec& spec) {
  std::map<int8_t, int64_t> counts;
  for (const int code : codes_in_order(spec)) counts[static_cast<int8_t>(code)] = 0;
  return counts;
}

QuantizeReport make_report(const QuantSpec& spec, const std::string& name,
                           const std::vector<float>& x, const Shape& shape,
                           const QuantizedTensor& out) {
  QuantizeReport report;
  report.name = name;
  report.rows = shape.rows;
  report.k = shape.k;
  double error = 0, power = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double difference = static_cast<double>(out.values[i]) - static_cast<double>(x[i]);
    error += difference * difference;
    power += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  const double count = static_cast<double>(x.size());
  report.mean_squared_error = error / count;
  report.relative_error = power > 0 ? error / power : std::nan("");
  int64_t passing = 0;  // bits past a row's end are 0
  for (const uint8_t byte : out.mask) passing += std::popcount(byte);
  report.masked_fraction = 1 - static_cast<double>(passing) / count;
  if (has_codes(spec)) {
    std::map<int8_t, int64_t> counts = empty_counts(spec);
    for (const int8_t code : out.codes) ++counts[code];
    const CodeFormat format = code_format(spec);
    for (const auto& [code, n] : counts) {
      const float number = format.is_integer
                               ? static_cast<float>(format.multiplier * code + format.offset)
                               : format.levels[static_cast<size_t>(code)];
      report.histogram.emplace_back(number, n);
    }
  }
  return report;
}

void add_tensor(SafetensorsWriter& writer, const QuantSpec& spec, const TensorView& tensor,
                const Shape& shape, const QuantizedTensor& out) {
  const auto add_floats = [&](const char* part, const std::vector<float>& values) {
    writer.add(tensor.name + part, tensor.shape, std::span<const float>(values));
  };
  add_floats(".values", out.values);
  if (spec.hadamard) add_floats(".values_rotated", out.values_rotated);
  if (!out.grad.empty()) add_floats(".grad", out.grad);
  writer.add(tensor.name + ".scales", {shape.rows}, std::span<const float>(out.scales));
  if (!out.codes.empty()) {
    writer.add(tensor.name + ".codes", tensor.shape, std::span<const int8_t>(out.codes));
  }
  writer.add(tensor.name + ".mask", {shape.rows, shape.mask_size()},
             std::span<const uint8_t>(out.mask));
}

// How codes become numbers, in words for who reads the file.
std::string code_format_text(const QuantSpec& spec) {
  if (!has_codes(spec)) return "none";
  const CodeFormat format = code_format(spec);
  if (!format.is_integer)
    return fmt::format("number = levels[code], levels {}", fmt::join(format.levels, " "));
  return fmt::format("number = {} * code + {}", format.multiplier, format.offset);
}

std::vector<const TensorView*> matching_tensors(const SafetensorsReader& file,
                                                const QuantizeFileOptions& options) {
  std::vector<const TensorView*> matching;
  std::string names;
  for (const TensorView& tensor : file.tensors()) {
    if (!names.empty()) names += ", ";
    names += tensor.name;
    if (tensor.name == options.gradient) continue;
    if (fnmatch(options.pattern.c_str(), tensor.name.c_str(), 0) == 0) matching.push_back(&tensor);
  }
  constexpr size_t kLongestList = 1000;
  if (names.size() > kLongestList) names = names.substr(0, kLongestList) + " ...";
  QUEST_CHECK(!matching.empty(), ErrorKind::kUsage,
              "no tensor of {} matches --tensors {}; it holds: {}", options.input.string(),
              options.pattern, names.empty() ? "nothing" : names);
  return matching;
}

std::string histogram_text(const std::vector<std::pair<float, int64_t>>& histogram) {
  int64_t total = 0;
  for (const auto& [number, count] : histogram) total += count;
  const size_t width = (histogram.size() + kHistogramBins - 1) / kHistogramBins;
  std::string text;
  for (size_t i = 0; i < histogram.size(); i += width) {
    const size_t last = std::min(i + width, histogram.size()) - 1;
    int64_t count = 0;
    for (size_t j = i; j <= last; ++j) count += histogram[j].second;
    std::string label = fmt::format("{:.4g}", histogram[i].first);
    if (last > i) label += fmt::format("..{:.4g}", histogram[last].first);
    text += fmt::format(" {}:{:.1f}%", label,
                        100.0 * static_cast<double>(count) / static_cast<double>(total));
  }
  return text;
}

}  // namespace

double QuantizeReport::signal_to_noise_db() const { return -10 * std::log10(relative_error); }

std::vector<QuantizeReport> quantize_file(const QuantizeFileOptions& options) {
  validate(options.spec);
  QUEST_CHECK(options.spec.registered == nullptr, ErrorKind::kUsage,
              "{} is no grid: it takes its values in a model's training (quest train)",
              to_string(options.spec));
  const SafetensorsReader file(options.input);
  std::error_code ignored;
  QUEST_CHECK(!std::filesystem::equivalent(options.input, options.output, ignored),
              ErrorKind::kUsage, "--out {} is the input file itself; choose another place",
              options.output.string());
  const TensorView* gradient = options.gradient.empty() ? nullptr : &file.tensor(options.gradient);
  QUEST_CHECK(gradient == nullptr || is_floating(gradient->dtype), ErrorKind::kData,
              "gradient {} is {}: it must be F16, BF16, F32 or F64", options.gradient,
              gradient == nullptr ? "" : dtype_name(gradient->dtype));
  ThreadPool pool;
  SafetensorsWriter writer(options.output);
  writer.set_metadata("quantizer", to_string(options.spec));
  writer.set_metadata("code_format", code_format_text(options.spec));
  std::deque<QuantizedTensor> outputs;  // the writer keeps views
  std::vector<QuantizeReport> reports;
  for (const TensorView* tensor : matching_tensors(file, options)) {
    const Shape shape = shape_of(*tensor, options.spec);
    QUEST_CHECK(gradient == nullptr || gradient->shape == tensor->shape, ErrorKind::kUsage,
                "gradient {} has shape ({}), tensor {} has ({}); choose tensors of its shape with "
                "--tensors",
                options.gradient, fmt::join(gradient->shape, ","), tensor->name,
                fmt::join(tensor->shape, ","));
    const std::vector<float> x = tensor->to_float();
    outputs.push_back(
        quantize_tensor(options.spec, tensor->name, x, shape,
                        gradient == nullptr ? std::vector<float>() : gradient->to_float(), pool));
    reports.push_back(make_report(options.spec, tensor->name, x, shape, outputs.back()));
    add_tensor(writer, options.spec, *tensor, shape, outputs.back());
    stop_if_asked();
  }
  writer.finish();
  return reports;
}

std::string format_quantize_report(const std::vector<QuantizeReport>& reports) {
  size_t width = 6;
  for (const QuantizeReport& report : reports) width = std::max(width, report.name.size());
  std::string text = fmt::format("{:<{}}  {:>8}  {:>8}  {:>10}  {:>10}  {:>7}  {:>7}\n", "tensor",
                                 width, "rows", "K", "MSE", "relative", "SNR dB", "masked");
  for (const QuantizeReport& report : reports) {
    const auto or_dash = [](double value, const char* format) {
      return std::isfinite(value) ? fmt::format(fmt::runtime(format), value) : std::string("-");
    };
    text += fmt::format(
        "{:<{}}  {:>8}  {:>8}  {:>10.4g}  {:>10}  {:>7}  {:>6.2f}%\n", report.name, width,
        report.rows, report.k, report.mean_squared_error, or_dash(report.relative_error, "{:.4g}"),
        or_dash(report.signal_to_noise_db(), "{:.2f}"), 100 * report.masked_fraction);
  }
  if (reports.empty() || reports.front().histogram.empty()) return text;
  text += "\ncodes (number: share of values)\n";
  for (const QuantizeReport& report : reports) {
    text += fmt::format("{:<{}} {}\n", report.name, width, histogram_text(report.histogram));
  }
  return text;
}

QuantSpec spec_of_argument(const std::string& text, bool activation_side) {
  std::string recipe_problem;
  try {
    const QuantRecipe recipe = recipe_from_name(text);
    return activation_side ? recipe.activation : recipe.weight;
  } catch (const Error& error) {
    recipe_problem = error.what();
  }
  try {
    return spec_from_string(text);
  } catch (const Error& error) {
    // A dot is in every spec and in no recipe's name.
    if (text.find('.') != std::string::npos) throw;
    QUEST_THROW(ErrorKind::kUsage, "{}\nor a quantizer spelled out: {}", recipe_problem,
                error.what());
  }
}

}  // namespace quest::cli
