// The paper's numbers (QuEST, arXiv 2502.05003), from the folder data/paper of the repository:
// figures.json, what figures and tables show, and runs.csv, the runs of the scaling law.
//
//   PaperData paper = read_paper_data("data/paper");
//   paper.law.efficiency("w4a4");                     // 0.6918, of the authors' own fit
//   paper.figure("figure8_masked_fraction_w8a8");
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "quest/base/json_util.h"
#include "quest/scaling/scaling_law.h"

namespace quest::plot {

struct PaperData {
  std::filesystem::path folder;
  Json figures;
  std::vector<scaling::ScalingRun> runs;
  scaling::ScalingLaw law;  // reference_fit, with recipes' names

  // figures.json's object of this name. Throws kData if there is none.
  const Json& figure(std::string_view name) const;
  // "…/figures.json: NAME", to start messages with.
  std::string where(std::string_view name) const;
};

// Throws kIo or kData with the folder and the hint --paper-data.
PaperData read_paper_data(const std::filesystem::path& folder);

// An object {"4": 0.69, ...} as pairs of key and number, by rising key. Throws kData.
std::vector<std::pair<double, double>> number_pairs(const Json& object, std::string_view where);

}  // namespace quest::plot
