#include "quest/plot/paper_figures.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <regex>
#include <string>

#include "quest/base/error.h"
#include "quest/plot/figure_groups.h"
#include "quest/plot/metrics.h"
#include "quest/quant/quant_spec.h"

namespace quest::plot {
namespace {

struct Entry {
  FigureInfo info;
  Figure (*draw)(const PaperData&, const FigureOptions&);
};

constexpr std::string_view kNoBits =
    "the figure needs the bits of a weight, but this is no recipe of this program and no name that "
    "begins with them; name it like w4a4_mine, or leave its runs out";
constexpr std::string_view kRunsText = "finished runs: folders, or tables (CSV) as quest fit reads";
constexpr std::string_view kDiagnosticsText = "runs trained with diagnostics.every";
constexpr std::string_view kSweepText = "folders of quest sweep (trials.csv)";

constexpr std::array<Entry, 15> kEntries = {{
    {{"fig1",
      "loss against model size in bytes, each precision at 100 tokens per parameter, and "
      "the law",
      kRunsText, OwnData::kRuns, true, true},
     law_by_size},
    {{"fig2", "cosine between the quantized and the true gradient, by depth", kDiagnosticsText,
      OwnData::kDiagnostics},
     gradient_alignment},
    {{"fig3", "loss against bits: STE, LSQ, QuaRot, AO and QuEST, 30M and 50M parameters",
      kRunsText},
     loss_by_bits},
    {{"fig4", "efficiency eff(P) of every format, and eff(P)/P, the efficiency of a bit",
      "none but --fit: eff of own runs beside the paper's", OwnData::kLaw, true, true},
     efficiency},
    {{"fig5", "loss against parameters with 25, 50 and 100 tokens per parameter, and the law",
      kRunsText, OwnData::kRuns, true, true},
     law_by_data},
    {{"fig6", "speed of a linear layer in INT4 over BF16, with and without Hadamard, by batch",
      "quest bench layer --json, or JSON {\"columns\": [...], \"layers\": {\"NxK\": [[...]]}}",
      OwnData::kTimings},
     layer_speedup},
    {{"fig7", "speed of prefill in INT4 over BF16, by batch",
      "quest bench prefill --compare bf16 --json, or JSON {\"columns\": [...], \"batch_sizes\": "
      "[...], \"model_NAME\": [[...]]}",
      OwnData::kTimings},
     prefill_speedup},
    {{"fig8", "share of masked gradients during training, with and without Hadamard",
      kDiagnosticsText, OwnData::kDiagnostics},
     masked_fraction},
    {{"fig9", "share of once masked weights that are masked again later", kDiagnosticsText,
      OwnData::kDiagnostics},
     mask_retention},
    {{"fig10", "heat map of a sweep over two settings", kSweepText, OwnData::kSweep, false},
     sweep_map},
    {{"fig11", "INT4, FP4 and 4:8 sparse INT4: loss against size; eff against rounding error",
      kRunsText, OwnData::kRuns, true, true},
     format_comparison},
    {{"fig12", "heat map of a sweep over two settings", kSweepText, OwnData::kSweep, false},
     sweep_map},
    {{"fig13", "the law of other families: weights only, without Hadamard, FP4 and sparse",
      kRunsText, OwnData::kRuns, true, true},
     law_families},
    {{"fig14", "which precision is best, by tokens per parameter, at equal memory or compute",
      "none but --fit: from the law of own runs", OwnData::kLaw, true, true},
     best_precision},
    {{"table4", "perplexity of LSQ by the weight decay of its step, 2 to 4 bits", kSweepText,
      OwnData::kSweep},
     lsq_weight_decay},
}};

const auto kInfos = [] {
  std::array<FigureInfo, kEntries.size()> infos;
  std::transform(kEntries.begin(), kEntries.end(), infos.begin(),
                 [](const Entry& entry) { return entry.info; });
  return infos;
}();

std::string upper(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return result;
}

// "_nohadamard_ste": " without Hadamard STE".
std::string suffix_label(std::string_view suffixes) {
  std::string label;
  while (!suffixes.empty()) {
    suffixes.remove_prefix(1);  // the underscore
    const size_t end = std::min(suffixes.find('_'), suffixes.size());
    const std::string_view word = suffixes.substr(0, end);
    label += word == "nohadamard" ? " without Hadamard"
             : word == "hadamard" ? " with Hadamard"
                                  : fmt::format(" {}", upper(word));
    suffixes.remove_prefix(end);
  }
  return label;
}

}  // namespace

std::span<const FigureInfo> paper_figures() { return kInfos; }

const FigureInfo& figure_info(std::string_view name) {
  std::string names;
  for (const FigureInfo& info : kInfos) {
    if (info.name == name) return info;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", info.name);
  }
  QUEST_THROW(ErrorKind::kUsage, "there is no figure '{}'; there are {}", name, names);
}

Figure paper_figure(std::string_view name, const PaperData& paper, const FigureOptions& options) {
  const FigureInfo& info = figure_info(name);
  const bool has_own = !options.own.empty() || (info.takes == OwnData::kLaw && options.own_law);
  QUEST_CHECK(info.takes != OwnData::kLaw || options.own.empty(), ErrorKind::kUsage,
              "{} takes no own data ({}); leave out {}", name, info.own,
              options.own.empty() ? "" : options.own[0]);
  QUEST_CHECK(has_own || info.has_paper_data, ErrorKind::kUsage,
              "{}: data/paper has no numbers of this figure; give own data: {}", name, info.own);
  QUEST_CHECK(has_own || !options.own_only, ErrorKind::kUsage,
              "{}: without the paper's data there is nothing to draw; give own data: {}", name,
              info.own);
  QUEST_CHECK(options.labels.empty() || options.labels.size() == options.own.size(),
              ErrorKind::kUsage, "--label was given {} times for {} own inputs; give one for each",
              options.labels.size(), options.own.size());
  const auto at = std::find_if(kEntries.begin(), kEntries.end(),
                               [&](const Entry& entry) { return entry.info.name == name; });
  return at->draw(paper, options);
}

std::string format_label(std::string_view format) {
  if (format.starts_with("int4_4of8")) {
    return "INT4, 4:8 sparse" + suffix_label(format.substr(std::string_view("int4_4of8").size()));
  }
  const size_t end = std::min(format.find('_'), format.size());
  const std::string_view base = format.substr(0, end);
  return (base == "bitnet" ? "BitNet" : upper(base)) + suffix_label(format.substr(end));
}

int width_color(double bits) {
  if (bits <= 1) return 1;
  if (bits <= 2) return 4;
  if (bits < 4) return 2;
  if (bits < 8) return 0;
  return bits < 16 ? 5 : 6;
}

std::optional<QuantRecipe> known_recipe(std::string_view format) {
  try {
    return recipe_from_name(format);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUsage) throw;
    return std::nullopt;
  }
}

std::optional<double> find_format_bits(std::string_view format) {
  if (const auto recipe = known_recipe(format)) return storage_bits(recipe->weight);
  static const std::regex named_width("w([1-9]|1[0-6])a([1-9]|1[0-6])(_.*)?");
  std::cmatch match;
  if (!std::regex_match(format.begin(), format.end(), match, named_width)) return std::nullopt;
  return std::stod(match[1].str());
}

double format_bits(std::string_view format) {
  const std::optional<double> bits = find_format_bits(format);
  QUEST_CHECK(bits, ErrorKind::kUsage, "format '{}': {}", format, kNoBits);
  return *bits;
}

std::vector<scaling::ScalingRun> own_runs(const FigureOptions& options) {
  std::vector<scaling::ScalingRun> runs = scaling::read_runs(options.own);
  for (const scaling::ScalingRun& run : runs) {
    QUEST_CHECK(find_format_bits(run.format), ErrorKind::kUsage, "{}: format '{}': {}", run.source,
                run.format, kNoBits);
  }
  return runs;
}

std::string own_label(const FigureOptions& options, size_t i) {
  return options.labels.empty() ? run_name(options.own[i]) : options.labels[i];
}

}  // namespace quest::plot
