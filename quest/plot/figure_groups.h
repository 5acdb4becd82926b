// The figures, one function each, in files by subject; paper_figures.h tells them apart by name.
// Used inside plot only.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quest/plot/chart.h"
#include "quest/plot/paper_data.h"
#include "quest/plot/paper_figures.h"
#include "quest/quant/quant_spec.h"

namespace quest::plot {

// law_figures.cpp
Figure law_by_size(const PaperData& paper, const FigureOptions& options);        // 1
Figure law_by_data(const PaperData& paper, const FigureOptions& options);        // 5
Figure format_comparison(const PaperData& paper, const FigureOptions& options);  // 11
Figure law_families(const PaperData& paper, const FigureOptions& options);       // 13
// efficiency_figures.cpp
Figure efficiency(const PaperData& paper, const FigureOptions& options);      // 4
Figure best_precision(const PaperData& paper, const FigureOptions& options);  // 14
// method_figures.cpp
Figure loss_by_bits(const PaperData& paper, const FigureOptions& options);  // 3
// diagnostics_figures.cpp
Figure gradient_alignment(const PaperData& paper, const FigureOptions& options);  // 2
Figure masked_fraction(const PaperData& paper, const FigureOptions& options);     // 8
Figure mask_retention(const PaperData& paper, const FigureOptions& options);      // 9
// speed_figures.cpp
Figure layer_speedup(const PaperData& paper, const FigureOptions& options);    // 6
Figure prefill_speedup(const PaperData& paper, const FigureOptions& options);  // 7
// sweep_figures.cpp
Figure sweep_map(const PaperData& paper, const FigureOptions& options);         // 10, 12
Figure lsq_weight_decay(const PaperData& paper, const FigureOptions& options);  // Table 4

// "W4A4", "W4A4 without Hadamard", "BF16", "FP4", "INT4, 4:8 sparse": a recipe for readers.
std::string format_label(std::string_view format);
// The color of a width: the same in all figures.
int width_color(double bits);
// The recipe of this name; nothing for formats that this program does not know, such as those of
// another program's quantizers.
std::optional<QuantRecipe> known_recipe(std::string_view format);
// Bits that a weight of this format takes: the recipe's, or else those that its name begins with
// ("w2a2_mine"). Without either nothing, and format_bits throws kUsage.
std::optional<double> find_format_bits(std::string_view format);
double format_bits(std::string_view format);
// All runs of options.own. Throws kUsage, naming file and row, for formats without bits.
std::vector<scaling::ScalingRun> own_runs(const FigureOptions& options);
// The label of own data number i.
std::string own_label(const FigureOptions& options, size_t i);
// The tokens per parameter from which on, of two models of equal memory, the one in `better` has
// the lower loss; nothing if it always or never has between 1 and 1e6.
std::optional<double> crossing_ratio(const scaling::ScalingLaw& law, std::string_view better,
                                     std::string_view worse, double memory_bytes);

}  // namespace quest::plot
