// What the paper's own figures say of the values of an experiment (experiments.h), to compare runs
// of scale paper with: its 30M model on C4 (data/paper/figures.json, Figures 2, 3 and 8).
//
//   paper_values("fig3", read_paper_data(folder)).at("w2a2").value;   // 3.57404
//
// Thread rules: pure.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "quest/cli/experiments.h"
#include "quest/plot/paper_data.h"

namespace quest::cli {

// By run_label, for runs of any seed. Empty: figures.json has none of this experiment. Throws
// kData.
std::map<std::string, Expected> paper_values(std::string_view experiment,
                                             const plot::PaperData& paper);

}  // namespace quest::cli
