// Figures 1, 5, 11 and 13: measured losses beside the curves of the law.
#include <algorithm>
#include <cmath>
#include <map>

#include "quest/base/error.h"
#include "quest/plot/chart_axis.h"
#include "quest/plot/figure_groups.h"

namespace quest::plot {
namespace {

using scaling::ScalingLaw;
using scaling::ScalingRun;

constexpr double kPaperRatio = 100;  // tokens per parameter of the paper's main runs
constexpr int kCurvePoints = 60;

struct FormatLook {
  std::string format, label;
  int color = 0;
  Marker marker = Marker::kCircle;
};

FormatLook look_of(const std::string& format) {
  return {format, format_label(format), width_color(format_bits(format)), Marker::kCircle};
}

bool near_ratio(const ScalingRun& run, double ratio) {
  return std::fabs(run.tokens / run.params / ratio - 1) < 0.1;
}

const ScalingLaw& law_of(const PaperData& paper, const FigureOptions& options) {
  return options.own_law ? *options.own_law : paper.law;
}

std::string law_note(const FigureOptions& options) {
  std::string note =
      options.own.empty() ? "points: measured" : "points: measured (own runs at their own D/N)";
  if (options.own_law) return note + ", curves: the law fitted to the runs of --fit";
  return options.own_only ? note : note + ", curves: the authors' law";
}

double model_bytes(double params, const std::string& format) {
  return params * format_bits(format) / 8;
}

// The law from a little below the smallest to a little above the largest of the sizes.
std::vector<ChartPoint> law_curve(const ScalingLaw& law, const std::string& format, Range params,
                                  double ratio, bool bytes) {
  std::vector<ChartPoint> points;
  const double low = params.low / 1.12, high = params.high * 1.12;
  for (int i = 0; i < kCurvePoints; ++i) {
    const double n = low * std::pow(high / low, i / (kCurvePoints - 1.0));
    points.push_back({bytes ? model_bytes(n, format) : n, law.loss(n, ratio * n, format)});
  }
  return points;
}

// Points at the paper's tokens per parameter, and the curve through them, of each format.
void add_paper(Chart& chart, const std::vector<ScalingRun>& runs, const ScalingLaw* law,
               const std::vector<FormatLook>& looks, bool points) {
  for (const FormatLook& look : looks) {
    Series measured{
        .name = look.label, .look = Look::kMarkers, .color = look.color, .marker = look.marker};
    Range params;
    for (const ScalingRun& run : runs) {
      if (run.format != look.format || !near_ratio(run, kPaperRatio)) continue;
      measured.points.push_back({model_bytes(run.params, run.format), run.loss});
      params.include(run.params);
    }
    if (params.is_empty()) continue;
    if (law != nullptr && law->eff.contains(look.format)) {
      chart.series.push_back({.name = points ? "" : look.label,
                              .points = law_curve(*law, look.format, params, kPaperRatio, true),
                              .look = Look::kLine,
                              .color = look.color});
    }
    if (points) chart.series.push_back(measured);
  }
}

// Own runs of the formats, as diamonds: one series a format.
void add_own(Chart& chart, const std::vector<ScalingRun>& runs,
             const std::vector<FormatLook>& looks) {
  for (const FormatLook& look : looks) {
    Series own{.name = "own " + look.label,
               .look = Look::kMarkers,
               .color = look.color,
               .marker = Marker::kDiamond};
    for (const ScalingRun& run : runs) {
      if (run.format != look.format) continue;
      own.points.push_back({model_bytes(run.params, run.format), run.loss});
    }
    if (!own.points.empty()) chart.series.push_back(own);
  }
}

// Looks of the own runs' formats that are in none of the lists, so that every run is shown.
std::vector<FormatLook> other_formats(const std::vector<ScalingRun>& runs,
                                      const std::vector<FormatLook>& known) {
  std::vector<FormatLook> others;
  for (const ScalingRun& run : runs) {
    const auto same = [&](const FormatLook& look) { return look.format == run.format; };
    if (std::none_of(known.begin(), known.end(), same) &&
        std::none_of(others.begin(), others.end(), same)) {
      others.push_back(look_of(run.format));
    }
  }
  return others;
}

Chart size_chart(const std::string& title) {
  Chart chart;
  chart.title = title;
  chart.x = {.label = "weights of the blocks (bytes)", .log = true, .numbers = Numbers::kBytes};
  chart.y = {.label = "validation loss (nats per token)"};
  return chart;
}

// One panel of the families' figures.
struct Family {
  std::string title;
  std::vector<FormatLook> looks;
};

Figure families_figure(const std::vector<Family>& families, const PaperData& paper,
                       const FigureOptions& options) {
  Figure figure;
  figure.note = law_note(options);
  figure.same_y = true;
  const std::vector<ScalingRun> own = own_runs(options);
  const ScalingLaw* law = options.own_only && !options.own_law ? nullptr : &law_of(paper, options);
  std::vector<FormatLook> known;
  for (const Family& family : families) {
    known.insert(known.end(), family.looks.begin(), family.looks.end());
  }
  std::vector<Family> all = families;
  if (const std::vector<FormatLook> others = other_formats(own, known); !others.empty()) {
    all.push_back({"other own formats", others});
  }
  for (const Family& family : all) {
    Chart chart = size_chart(family.title);
    add_paper(chart, paper.runs, law, family.looks, !options.own_only);
    add_own(chart, own, family.looks);
    if (!chart.series.empty()) figure.panels.emplace_back(chart);
  }
  figure.columns = static_cast<int>(std::max<size_t>(1, figure.panels.size()));
  figure.width = std::min(1900, 700 * figure.columns);
  figure.height = 760;
  return figure;
}

std::vector<FormatLook> family_looks(const std::string& suffix, const std::vector<int>& widths) {
  std::vector<FormatLook> looks = {look_of("bf16")};
  for (const int bits : widths) {
    const std::string format =
        suffix == "a16" ? fmt::format("w{}a16", bits) : fmt::format("w{}a{}{}", bits, bits, suffix);
    looks.push_back({format, bits == 1 ? "1 bit" : fmt::format("{} bits", bits), width_color(bits),
                     Marker::kCircle});
  }
  return looks;
}

const std::vector<FormatLook>& four_bit_looks() {
  static const std::vector<FormatLook> looks = {
      {"bf16", "BF16", 6, Marker::kCircle},
      {"w4a4", "INT4", 0, Marker::kCircle},
      {"fp4", "FP4", 3, Marker::kSquare},
      {"int4_4of8", "INT4, 4:8 sparse", 1, Marker::kTriangle},
  };
  return looks;
}

// eff of the formats whose error on N(0,1) is known, against that error.
Chart efficiency_by_error(const PaperData& paper, const ScalingLaw& law,
                          std::vector<FormatLook> looks) {
  const Json& errors = paper.figure("gaussian_mse");
  Chart chart;
  chart.title = "efficiency against rounding error";
  chart.x = {.label = "mean squared error on N(0, 1)", .log = true};
  chart.y = {.label = "eff"};
  for (const int bits : {8, 3, 2, 1}) {
    looks.push_back(
        {fmt::format("w{}a{}", bits, bits), fmt::format("INT{}", bits), width_color(bits)});
  }
  for (const FormatLook& look : looks) {
    const std::string key = look.format.starts_with('w') ? look.format.substr(1, 1) : look.format;
    if (!errors.contains(key) || !law.eff.contains(look.format)) continue;
    const double error = json_get<double>(errors, key, paper.where("gaussian_mse"));
    chart.series.push_back({.name = look.label,
                            .points = {{error, law.efficiency(look.format)}},
                            .look = Look::kMarkers,
                            .color = look.color,
                            .marker = look.marker});
  }
  return chart;
}

// Tokens per parameter as the figures name them: the paper's, or own ones to two digits.
double ratio_group(const ScalingRun& run) {
  for (const double ratio : {25.0, 50.0, 100.0}) {
    if (near_ratio(run, ratio)) return ratio;
  }
  return std::stod(fmt::format("{:.2g}", run.tokens / run.params));
}

constexpr int kRatioColors[] = {4, 2, 0, 1, 3, 5, 6};

void add_ratios(Chart& chart, const std::vector<ScalingRun>& runs, const std::string& format,
                const ScalingLaw* law, const std::map<double, int>& colors, bool own) {
  std::map<double, std::vector<ScalingRun>> groups;
  for (const ScalingRun& run : runs) {
    if (run.format == format) groups[ratio_group(run)].push_back(run);
  }
  for (const auto& [ratio, group] : groups) {
    Series points{.name = fmt::format("{}D/N = {:g}", own ? "own, " : "", ratio),
                  .look = Look::kMarkers,
                  .color = colors.at(ratio),
                  .marker = own ? Marker::kDiamond : Marker::kCircle};
    Range params;
    for (const ScalingRun& run : group) {
      points.points.push_back({run.params, run.loss});
      params.include(run.params);
    }
    if (law != nullptr && law->eff.contains(format)) {
      chart.series.push_back({.points = law_curve(*law, format, params, ratio, false),
                              .look = Look::kLine,
                              .color = points.color});
    }
    chart.series.push_back(points);
  }
}

}  // namespace

Figure law_by_size(const PaperData& paper, const FigureOptions& options) {
  std::vector<FormatLook> looks;
  for (const char* format : {"bf16", "w8a8", "w4a4", "w3a3", "w2a2", "w1a1"}) {
    looks.push_back(look_of(format));
  }
  Figure figure;
  figure.title = "Figure 1: loss against model size, 100 tokens per parameter";
  figure.note = law_note(options);
  Chart chart = size_chart("");
  const std::vector<ScalingRun> own = own_runs(options);
  const ScalingLaw* law = options.own_only && !options.own_law ? nullptr : &law_of(paper, options);
  add_paper(chart, paper.runs, law, looks, !options.own_only);
  const std::vector<FormatLook> others = other_formats(own, looks);
  looks.insert(looks.end(), others.begin(), others.end());
  add_own(chart, own, looks);
  figure.panels.emplace_back(chart);
  return figure;
}

Figure law_by_data(const PaperData& paper, const FigureOptions& options) {
  const std::vector<ScalingRun> own = scaling::read_runs(options.own);  // of any format
  std::vector<std::string> formats;
  if (!options.own_only) formats = {"w2a2", "w3a3", "w4a4"};
  std::map<double, int> colors = {{25, 0}, {50, 0}, {100, 0}};
  for (const ScalingRun& run : own) {
    colors[ratio_group(run)] = 0;
    if (std::find(formats.begin(), formats.end(), run.format) == formats.end()) {
      formats.push_back(run.format);
    }
  }
  size_t next = 0;
  for (auto& [ratio, color] : colors) color = kRatioColors[next++ % std::size(kRatioColors)];
  Figure figure;
  figure.title = "Figure 5: loss against parameters and tokens per parameter (D/N)";
  figure.note = law_note(options);
  figure.same_y = true;
  const ScalingLaw* law = options.own_only && !options.own_law ? nullptr : &law_of(paper, options);
  for (const std::string& format : formats) {
    Chart chart;
    chart.title = format_label(format);
    chart.x = {.label = "parameters N", .log = true, .numbers = Numbers::kCounts};
    chart.y = {.label = "validation loss (nats per token)"};
    if (!options.own_only) add_ratios(chart, paper.runs, format, law, colors, false);
    add_ratios(chart, own, format, options.own_law ? law : nullptr, colors, true);
    figure.panels.emplace_back(chart);
  }
  figure.columns = static_cast<int>(std::min<size_t>(3, figure.panels.size()));
  figure.width = std::min(1900, 700 * figure.columns);
  figure.height = 760 * static_cast<int>((figure.panels.size() + 2) / 3);
  return figure;
}

Figure format_comparison(const PaperData& paper, const FigureOptions& options) {
  Figure figure = families_figure({{"loss against size", four_bit_looks()}}, paper, options);
  figure.title = "Figure 11: number formats";
  figure.note += "; 100 tokens per parameter";
  figure.same_y = false;
  if (!options.own_only || options.own_law) {
    figure.panels.emplace_back(
        efficiency_by_error(paper, law_of(paper, options), four_bit_looks()));
  }
  figure.columns = static_cast<int>(figure.panels.size());
  figure.width = std::min(1900, 800 * figure.columns);
  return figure;
}

Figure law_families(const PaperData& paper, const FigureOptions& options) {
  std::vector<FormatLook> formats = four_bit_looks();
  formats.erase(formats.begin() + 1);
  formats.insert(formats.begin() + 1, {"w4a4", "4 bits", width_color(4)});
  Figure figure =
      families_figure({{"weights only", family_looks("a16", {4, 3, 2, 1})},
                       {"without Hadamard", family_looks("_nohadamard", {8, 4, 3, 2, 1})},
                       {"FP4 and sparse", formats}},
                      paper, options);
  figure.title = "Figure 13: the law of other families, 100 tokens per parameter";
  return figure;
}

}  // namespace quest::plot
