#include "quest/plot/paper_data.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "quest/base/error.h"

namespace quest::plot {
namespace {

// Names as in a table of runs: "4" is w4a4, of other groups w4a16 and w4a4_nohadamard.
void add_efficiencies(scaling::ScalingLaw& law, const Json& fit, const char* group,
                      std::string_view where) {
  QUEST_CHECK(fit.contains(group) && fit.at(group).is_object(), ErrorKind::kData,
              "{}: no object '{}'", where, group);
  for (const auto& [key, value] : fit.at(group).items()) {
    QUEST_CHECK(value.is_number(), ErrorKind::kData, "{}: {}.{} is no number", where, group, key);
    const bool is_width = key.find_first_not_of("0123456789") == std::string::npos;
    const std::string group_name = group;
    std::string name = is_width ? fmt::format("w{}a{}", key, key) : key;
    if (group_name == "eff_weight_only") name = fmt::format("w{}a16", key);
    if (group_name == "eff_no_hadamard") name += "_nohadamard";
    law.eff[name] = value.get<double>();
  }
}

scaling::ScalingLaw reference_law(const Json& fit, std::string_view where) {
  scaling::ScalingLaw law;
  law.a = json_get<double>(fit, "A", where);
  law.alpha = json_get<double>(fit, "alpha", where);
  law.b = json_get<double>(fit, "B", where);
  law.beta = json_get<double>(fit, "beta", where);
  law.e = json_get<double>(fit, "E", where);
  law.eff[std::string(scaling::kReferenceFormat)] = 1;
  for (const char* group : {"eff", "eff_no_hadamard", "eff_weight_only"}) {
    add_efficiencies(law, fit, group, where);
  }
  return law;
}

}  // namespace

const Json& PaperData::figure(std::string_view name) const {
  QUEST_CHECK(figures.is_object() && figures.contains(name), ErrorKind::kData,
              "{}: there is no '{}' in it", (folder / "figures.json").string(), name);
  return figures.at(std::string(name));
}

std::string PaperData::where(std::string_view name) const {
  return fmt::format("{}: {}", (folder / "figures.json").string(), name);
}

PaperData read_paper_data(const std::filesystem::path& folder) {
  PaperData data;
  data.folder = folder;
  for (const char* file : {"figures.json", "runs.csv"}) {
    QUEST_CHECK(std::filesystem::exists(folder / file), ErrorKind::kIo,
                "{}: no {} there; name the folder with the paper's numbers (data/paper of the "
                "repository) with --paper-data",
                folder.string(), file);
  }
  data.figures = read_json(folder / "figures.json");
  data.runs = scaling::read_run_table(folder / "runs.csv");
  data.law = reference_law(data.figure("reference_fit"), data.where("reference_fit"));
  return data;
}

std::vector<std::pair<double, double>> number_pairs(const Json& object, std::string_view where) {
  QUEST_CHECK(object.is_object(), ErrorKind::kData, "{}: expected an object, found {}", where,
              object.type_name());
  std::vector<std::pair<double, double>> pairs;
  for (const auto& [key, value] : object.items()) {
    double number = 0;
    const char* last = key.data() + key.size();
    const auto [end, code] = std::from_chars(key.data(), last, number);
    QUEST_CHECK(code == std::errc() && end == last && value.is_number(), ErrorKind::kData,
                "{}: '{}' and its value must be numbers", where, key);
    pairs.emplace_back(number, value.get<double>());
  }
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

}  // namespace quest::plot
