// Figures out of a few pieces: panels (charts with axes and series, heat maps), one legend that
// never covers data, a title, a note. All become one gnuplot script.
//
//   Figure figure;
//   figure.title = "Loss against size";
//   Chart chart;
//   chart.x = {.label = "model size", .log = true, .numbers = Numbers::kBytes};
//   chart.y = {.label = "loss (nats per token)"};
//   chart.series.push_back({.name = "W4A4", .points = {{1.5e7, 3.27}, {2.5e7, 3.13}}});
//   figure.panels.push_back(chart);
//   write_figure(figure, "figure.svg");
//
// Everything here is plain data; a script is a function of its figure alone. Texts are shown as
// they are: nothing in them is interpreted.
#pragma once

#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace quest::plot {

struct ChartPoint {
  double x = 0;
  double y = 0;
  // The band around y (Look::kBand).
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
};

enum class Look { kLine, kMarkers, kLineMarkers, kBand };

// Shapes, filled. The diamond is for the user's own data.
enum class Marker { kSquare = 5, kCircle = 7, kTriangle = 9, kDownTriangle = 11, kDiamond = 13 };

// Series of one name in several panels have one entry in the legend: the first one's.
struct Series {
  std::string name = "";  // in the legend; empty: no entry
  std::vector<ChartPoint> points = {};
  Look look = Look::kLineMarkers;
  int color = 0;  // of kColors, which repeat
  Marker marker = Marker::kCircle;
  int dash = 1;  // 1 solid, 2 dashed, 3 dotted, 4 dash-dotted
};

// How the numbers beside a logarithmic axis are written; a linear axis is always plain.
enum class Numbers { kPlain, kBytes, kCounts, kPowersOfTwo };

struct Tic {
  double at = 0;
  std::string text = "";
};

struct Axis {
  std::string label = "";
  bool log = false;
  Numbers numbers = Numbers::kPlain;
  std::optional<double> low = {}, high = {};  // default: all points and a small margin
  std::vector<Tic> tics = {};                 // in place of automatic ones
};

// A dashed gray line through the whole chart.
struct ReferenceLine {
  bool vertical = false;
  double at = 0;
};

struct Chart {
  std::string title = "";
  Axis x = {}, y = {};
  std::vector<Series> series = {};
  std::vector<ReferenceLine> lines = {};
};

// Cells with their numbers; the darker, the lower (or the higher).
struct HeatMap {
  std::string title = "";
  std::string x_label = "", y_label = "";
  std::vector<std::string> x_tics = {}, y_tics = {};
  std::vector<std::vector<std::optional<double>>> rows = {};  // rows[y][x], row 0 on top
  int digits = 3;                                             // behind the point
  bool low_is_dark = true;
  std::string missing = "–";                        // text of an empty cell
  std::optional<double> lowest = {}, highest = {};  // of the shades; default: of the cells
  bool shade_by_column = false;  // shades compare within a column instead of the whole map
};

struct Figure {
  std::string title = "";
  std::string note = "";  // small, at the bottom
  std::vector<std::variant<Chart, HeatMap>> panels = {};
  int columns = 1;
  bool same_y = false;  // all charts with the vertical range of their union
  int width = 1400;     // pixels
  int height = 900;
  double scale = 1;  // of a PNG: all of it, letters and lines included, by this factor
};

// The gnuplot script, data included; draws to the gnuplot variable quest_output. Throws kUsage for
// an extension other than ".png" and ".svg" or a size (scaled) that is not within 100 to 20000
// pixels, kData
// if a panel has nothing to draw (also: a logarithmic axis and no positive value).
std::string figure_script(const Figure& figure, std::string_view extension);

// Writes the picture; the format follows the extension. Throws as figure_script and run_gnuplot.
void write_figure(const Figure& figure, const std::filesystem::path& output);

}  // namespace quest::plot
