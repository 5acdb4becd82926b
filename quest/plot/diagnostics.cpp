#include "quest/plot/diagnostics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/plot/metrics.h"

namespace quest::plot {
namespace {

constexpr double kAbsent = std::numeric_limits<double>::quiet_NaN();

// The array under `key`; empty if there is none.
Json list_of(const Json& object, const char* key, const std::string& where) {
  if (!object.contains(key)) return Json::array();
  const Json& list = object.at(key);
  QUEST_CHECK(list.is_array(), ErrorKind::kData, "{}: {} is no list", where, key);
  return list;
}

class Mean {
 public:
  void include(double value) {
    if (!std::isfinite(value)) return;
    sum_ += value;
    ++count_;
  }
  std::optional<double> value() const {
    if (count_ == 0) return std::nullopt;
    return sum_ / count_;
  }

 private:
  double sum_ = 0;
  int count_ = 0;
};

MaskedShare masked_share(const Json& layers, const char* side, const std::string& where) {
  Mean masked, gaussian;
  for (const Json& layer : layers) {
    QUEST_CHECK(layer.is_object(), ErrorKind::kData, "{}: a layer is no object", where);
    if (!layer.contains(side)) continue;
    const Json& values = layer.at(side);
    QUEST_CHECK(values.is_object(), ErrorKind::kData, "{}: {} is no object", where, side);
    masked.include(json_get_or<double>(values, "masked", kAbsent, where));
    gaussian.include(json_get_or<double>(values, "masked_gaussian", kAbsent, where));
  }
  return {masked.value(), gaussian.value()};
}

std::vector<GradientCosine> gradient_cosine(const Json& list, const std::string& where) {
  std::vector<GradientCosine> result;
  for (const Json& entry : list) {
    const double mean = json_get_or<double>(entry, "mean", kAbsent, where);
    if (!std::isfinite(mean)) continue;  // a gradient that was zero or not finite
    result.push_back({cosine_depth(json_get<int64_t>(entry, "block", where),
                                   json_get<std::string>(entry, "part", where), where),
                      mean, json_get_or<double>(entry, "std", 0.0, where)});
  }
  std::stable_sort(result.begin(), result.end(),
                   [](const auto& a, const auto& b) { return a.depth < b.depth; });
  return result;
}

std::vector<MasksRetained> masks_retained(const Json& list, const std::string& where) {
  std::vector<MasksRetained> result;
  for (const Json& entry : list) {
    const double retained = json_get_or<double>(entry, "retained", kAbsent, where);
    if (!std::isfinite(retained)) continue;  // nothing was masked then
    result.push_back({json_get<int64_t>(entry, "since_step", where), retained});
  }
  return result;
}

}  // namespace

double cosine_depth(int64_t block, std::string_view part, std::string_view where) {
  QUEST_CHECK(part == "attn" || part == "mlp", ErrorKind::kData,
              "{}: the part of a block is '{}', must be attn or mlp", where, part);
  return static_cast<double>(block) + (part == "mlp" ? 0.5 : 0.0);
}

std::vector<DiagnosticsLine> parse_diagnostics(std::string_view text, std::string_view source) {
  std::vector<DiagnosticsLine> lines;
  for_each_metrics_line(text, source, [&](const Json& object, const std::string& where) {
    if (!object.contains("diagnostics")) return;
    const Json& values = object.at("diagnostics");
    QUEST_CHECK(values.is_object(), ErrorKind::kData, "{}: diagnostics is no object", where);
    DiagnosticsLine line;
    line.step = json_get<int64_t>(object, "step", where);
    const Json layers = list_of(values, "layers", where);
    line.weight = masked_share(layers, "weight", where);
    line.input = masked_share(layers, "input", where);
    line.cosine = gradient_cosine(list_of(values, "gradient_cosine", where), where);
    line.retained = masks_retained(list_of(values, "masks_retained", where), where);
    lines.push_back(std::move(line));
  });
  return lines;
}

RunDiagnostics read_run_diagnostics(const std::filesystem::path& run) {
  const std::filesystem::path file = metrics_file(run);
  RunDiagnostics result{run_name(run), parse_diagnostics(read_file(file), file.string())};
  QUEST_CHECK(!result.lines.empty(), ErrorKind::kData,
              "{}: no diagnostics in it; train with --diagnostics.every N", file.string());
  return result;
}

}  // namespace quest::plot
