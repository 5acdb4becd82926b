// What a run's diagnostics say, read from its metrics.jsonl: the lines with a "diagnostics" object,
//
//   {"step": 500, "tokens": 2048000, "diagnostics": {
//      "layers": [{"name": "model.layers.0...", "weight": {"masked": 0.012, "masked_gaussian":
//      ...},
//                  "input": {...}}, ...],
//      "gradient_cosine": [{"block": 0, "part": "attn", "mean": 0.9, "std": 0.1}, ...],
//      "masks_retained": [{"since_step": 0, "retained": 0.3}, ...]}}
//
// Each key may be absent; what the figures do not show is not read.
//
//   RunDiagnostics run = read_run_diagnostics("runs/w8a8-1b2c3d4e");
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quest::plot {

// Means over all layers that have the value.
struct MaskedShare {
  std::optional<double> masked;    // share of values whose gradient is masked
  std::optional<double> gaussian;  // what N(0,1) data would give
};

struct GradientCosine {
  double depth = 0;  // block, plus 1/2 for its MLP
  double mean = 0;
  double std = 0;
};

struct MasksRetained {
  int64_t since_step = 0;
  double retained = 0;  // share of the values masked then that are masked now
};

struct DiagnosticsLine {
  int64_t step = 0;
  MaskedShare weight, input;
  std::vector<GradientCosine> cosine;  // by rising depth
  std::vector<MasksRetained> retained;
};

struct RunDiagnostics {
  std::string name;
  std::vector<DiagnosticsLine> lines;
};

// The depth of an entry of a list of gradient cosines; `part` is "attn" or "mlp". Throws kData.
double cosine_depth(int64_t block, std::string_view part, std::string_view where);

// A last line that is cut off is left out. `source` starts the messages. Throws kData.
std::vector<DiagnosticsLine> parse_diagnostics(std::string_view text, std::string_view source);

// FOLDER/metrics.jsonl or the file given. Throws kIo, kData (also if there are no diagnostics).
RunDiagnostics read_run_diagnostics(const std::filesystem::path& run);

}  // namespace quest::plot
