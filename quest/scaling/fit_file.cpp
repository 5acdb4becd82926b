#include "quest/scaling/fit_file.h"

#include <algorithm>
#include <cmath>

#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/six_digits.h"

namespace quest::scaling {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr const char* kParameters[] = {"A", "alpha", "B", "beta", "E"};

double& parameter(ScalingLaw& law, size_t i) {
  double* fields[] = {&law.a, &law.alpha, &law.b, &law.beta, &law.e};
  return *fields[i];
}

OrderedJson bootstrap_json(const FitResult& fit) {
  OrderedJson columns = OrderedJson::array(), laws = OrderedJson::array();
  for (const char* name : kParameters) columns.push_back(name);
  for (const auto& [format, eff] : fit.law.eff) {
    if (format != kReferenceFormat) columns.push_back(format);
  }
  for (ScalingLaw law : fit.bootstrap_laws) {
    OrderedJson row = OrderedJson::array();
    for (size_t i = 0; i < std::size(kParameters); ++i) {
      row.push_back(six_digits(parameter(law, i)));
    }
    for (const auto& [format, eff] : law.eff) {
      if (format != kReferenceFormat) row.push_back(six_digits(eff));
    }
    laws.push_back(std::move(row));
  }
  return {{"columns", columns}, {"laws", laws}};
}

// Sound as a law: what every formula here takes for granted.
void check_law(const ScalingLaw& law, const std::string& where) {
  for (const auto& [name, value] : {std::pair<const char*, double>{"A", law.a},
                                    {"alpha", law.alpha},
                                    {"B", law.b},
                                    {"beta", law.beta}}) {
    QUEST_CHECK(std::isfinite(value) && value > 0, ErrorKind::kData,
                "{}: {} is {}, must be above 0", where, name, value);
  }
  QUEST_CHECK(std::isfinite(law.e) && law.e >= 0, ErrorKind::kData,
              "{}: E is {}, must be 0 or more", where, law.e);
  for (const auto& [format, eff] : law.eff) {
    QUEST_CHECK(std::isfinite(eff) && eff > 0, ErrorKind::kData,
                "{}: eff of {} is {}, must be above 0", where, format, eff);
  }
  const auto reference = law.eff.find(kReferenceFormat);
  QUEST_CHECK(reference != law.eff.end() && std::fabs(reference->second - 1) < 1e-9,
              ErrorKind::kData, "{}: eff holds no {} of 1, which others are measured by", where,
              kReferenceFormat);
}

std::vector<ScalingLaw> read_bootstrap(const Json& json, const ScalingLaw& law,
                                       const std::string& file) {
  const std::string where = file + ": bootstrap";
  const auto columns = json_get<std::vector<std::string>>(json, "columns", where);
  const size_t parameters = std::size(kParameters);
  QUEST_CHECK(columns.size() + 1 == parameters + law.eff.size() &&
                  std::equal(std::begin(kParameters), std::end(kParameters), columns.begin()),
              ErrorKind::kData, "{}: columns must be A, alpha, B, beta, E and each format but {}",
              where, kReferenceFormat);
  const auto rows = json.find("laws");
  QUEST_CHECK(rows != json.end() && rows->is_array(), ErrorKind::kData, "{}: laws is no array",
              where);
  std::vector<ScalingLaw> laws;
  for (const Json& row : *rows) {
    const std::string place = fmt::format("{} law {}", where, laws.size());
    QUEST_CHECK(
        row.is_array() && row.size() == columns.size() &&
            std::all_of(row.begin(), row.end(), [](const Json& x) { return x.is_number(); }),
        ErrorKind::kData, "{}: must be {} numbers", place, columns.size());
    ScalingLaw one;
    one.eff[std::string(kReferenceFormat)] = 1;
    for (size_t i = 0; i < columns.size(); ++i) {
      const double value = row[i].get<double>();
      if (i < parameters) {
        parameter(one, i) = value;
      } else {
        QUEST_CHECK(law.eff.count(columns[i]) == 1, ErrorKind::kData, "{}: eff has no {}", where,
                    columns[i]);
        one.eff[columns[i]] = value;
      }
    }
    check_law(one, place);
    laws.push_back(std::move(one));
  }
  return laws;
}

}  // namespace

std::map<std::string, FittedRange, std::less<>> fitted_ranges(std::span<const ScalingRun> runs) {
  std::map<std::string, FittedRange, std::less<>> ranges;
  const auto widen = [](Interval& interval, double x) {
    interval = {std::min(interval.low, x), std::max(interval.high, x)};
  };
  for (const ScalingRun& run : runs) {
    const double ratio = run.tokens / run.params;
    const FittedRange point = {{run.params, run.params}, {run.tokens, run.tokens}, {ratio, ratio}};
    FittedRange& range = ranges.emplace(run.format, point).first->second;
    widen(range.params, run.params);
    widen(range.tokens, run.tokens);
    widen(range.tokens_per_parameter, ratio);
  }
  return ranges;
}

OrderedJson errors_json(std::span<const ScalingRun> runs, std::span<const double> errors) {
  OrderedJson list = OrderedJson::array();
  for (size_t i = 0; i < runs.size(); ++i) {
    list.push_back({{"format", runs[i].format},
                    {"params", runs[i].params},
                    {"tokens", runs[i].tokens},
                    {"loss", runs[i].loss},
                    {"law", runs[i].loss * (1 + errors[i])},
                    {"relative_error", errors[i]},
                    {"source", runs[i].source}});
  }
  return list;
}

OrderedJson fit_json(const FitResult& fit, std::span<const ScalingRun> runs) {
  OrderedJson json;
  ScalingLaw law = fit.law;
  for (size_t i = 0; i < std::size(kParameters); ++i) json[kParameters[i]] = parameter(law, i);
  for (const auto& [name, eff] : law.eff) json["eff"][name] = eff;
  json["rms_residual"] = fit.rms_residual;
  const auto add = [&](const char* key, const auto& intervals) {
    for (const auto& [name, interval] : intervals) json[key][name] = {interval.low, interval.high};
  };
  add("eff_interval_95", fit.eff_interval);
  add("parameter_interval_95", fit.parameter_interval);
  if (const auto names = unidentified_formats(fit); !names.empty()) json["eff_not_known"] = names;
  json["runs"] = runs.size();
  json["residuals"] = errors_json(runs, relative_errors(law, runs));
  if (!fit.bootstrap_laws.empty()) json["bootstrap"] = bootstrap_json(fit);
  return json;
}

std::string fit_text(OrderedJson fit) {
  if (!fit.contains("bootstrap")) return fit.dump(2) + "\n";
  const std::string bootstrap = fit["bootstrap"].dump();
  fit.erase("bootstrap");
  std::string text = fit.dump(2);
  text.resize(text.size() - 2);  // the last "\n}"
  return text + ",\n  \"bootstrap\": " + bootstrap + "\n}\n";
}

StoredFit read_fit_file(const std::filesystem::path& path) {
  const std::string where = path.string();
  const Json json = read_json(path);
  QUEST_CHECK(json.is_object(), ErrorKind::kData, "{}: must be the JSON object of quest fit --json",
              where);
  StoredFit stored;
  for (size_t i = 0; i < std::size(kParameters); ++i) {
    parameter(stored.law, i) = json_get<double>(json, kParameters[i], where);
  }
  const auto eff = json.find("eff");
  QUEST_CHECK(eff != json.end() && eff->is_object(), ErrorKind::kData,
              "{}: eff, the efficiency by format, is missing", where);
  for (const auto& [format, value] : eff->items()) {
    stored.law.eff[format] = json_get<double>(*eff, format, where + ": eff");
  }
  check_law(stored.law, where);
  if (json.contains("eff_not_known")) {
    stored.unidentified = json_get<std::vector<std::string>>(json, "eff_not_known", where);
  }
  if (const auto bootstrap = json.find("bootstrap"); bootstrap != json.end()) {
    stored.bootstrap_laws = read_bootstrap(*bootstrap, stored.law, where);
  }
  if (const auto residuals = json.find("residuals"); residuals != json.end()) {
    std::vector<ScalingRun> runs;
    for (const Json& run : *residuals) {
      ScalingRun& one = runs.emplace_back();
      one.format = json_get<std::string>(run, "format", where + ": residuals");
      one.params = json_get<double>(run, "params", where + ": residuals");
      one.tokens = json_get<double>(run, "tokens", where + ": residuals");
      QUEST_CHECK(one.params > 0 && one.tokens > 0, ErrorKind::kData,
                  "{}: residuals: params {} and tokens {} must be above 0", where, one.params,
                  one.tokens);
    }
    stored.ranges = fitted_ranges(runs);
  }
  return stored;
}

}  // namespace quest::scaling
