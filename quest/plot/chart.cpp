#include "quest/plot/chart.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "quest/base/error.h"
#include "quest/plot/chart_axis.h"
#include "quest/plot/chart_style.h"
#include "quest/plot/gnuplot.h"

namespace quest::plot {
namespace {

constexpr double kPixelsPerPoint = 4.0 / 3;  // pngcairo; for svg a point is a pixel

// Width in em of a text in DejaVu Sans, each letter by its kind and a little too wide.
double text_em(std::string_view text) {
  double em = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xc0) == 0x80) continue;  // the rest of a character of UTF-8
    if (std::string_view(" .,:;'!|ijl").find(c) != std::string_view::npos) {
      em += 0.33;
    } else if (std::string_view("()/-ftrI").find(c) != std::string_view::npos) {
      em += 0.43;
    } else if (std::string_view("mwMW@%").find(c) != std::string_view::npos) {
      em += 0.95;
    } else {
      em += std::isupper(byte) != 0 || byte >= 0x80 ? 0.7 : 0.62;
    }
  }
  return em;
}

struct LegendEntry {
  const Series* series;
  double width;  // pixels, with the sample
};

// Where everything is, in pixels from the left lower corner.
struct Layout {
  bool svg = false;
  int font = 20;    // gnuplot's size
  double em = 0;    // pixels
  double top = 0;   // of the panels, below the title
  double base = 0;  // of the panels, above legend and note
  double right = 0;
  double legend_x = 0, legend_y = 0;  // left end, and the middle of the first line
  bool legend_beside = false;
  std::vector<LegendEntry> legend;
  std::vector<std::vector<size_t>> legend_rows;  // of a legend below
};

std::vector<LegendEntry> legend_of(const Figure& figure, double em) {
  std::vector<LegendEntry> entries;
  std::set<std::string> names;
  for (const auto& panel : figure.panels) {
    const Chart* chart = std::get_if<Chart>(&panel);
    if (chart == nullptr) continue;
    for (const Series& series : chart->series) {
      if (series.name.empty() || !names.insert(series.name).second) continue;
      entries.push_back({&series, em * (4.0 + text_em(series.name))});
    }
  }
  return entries;
}

int font_of(int columns) { return columns <= 1 ? 20 : columns == 2 ? 17 : columns == 3 ? 15 : 13; }

Layout layout_of(const Figure& figure, bool svg) {
  Layout at;
  at.svg = svg;
  at.em = font_of(figure.columns) * kPixelsPerPoint;
  at.font = svg ? static_cast<int>(std::lround(at.em)) : font_of(figure.columns);
  at.legend = legend_of(figure, at.em);
  at.top = figure.height - at.em * (figure.title.empty() ? 0.8 : 2.9);
  at.base = figure.note.empty() ? 0.3 * at.em : 1.7 * at.em;
  at.right = figure.width - 0.8 * at.em;
  if (at.legend.empty()) return at;
  double widest = 0;
  for (const LegendEntry& entry : at.legend) widest = std::max(widest, entry.width);
  // Beside a single chart, if that leaves it most of the picture; else below the panels.
  at.legend_beside = figure.panels.size() == 1 && widest < 0.22 * figure.width;
  if (at.legend_beside) {
    at.right = figure.width - widest - 0.4 * at.em;
    at.legend_x = at.right + 0.8 * at.em;
    at.legend_y = at.top - 0.8 * at.em;
    return at;
  }
  double used = 0;
  for (size_t i = 0; i < at.legend.size(); ++i) {
    if (i == 0 || used + at.legend[i].width > figure.width - 2 * at.em) {
      at.legend_rows.emplace_back();
      used = 0;
    }
    at.legend_rows.back().push_back(i);
    used += at.legend[i].width;
  }
  const auto rows = static_cast<double>(at.legend_rows.size());
  at.legend_y = at.base + 1.5 * at.em * (rows - 1) + 0.8 * at.em;
  at.base += 1.5 * at.em * rows;
  return at;
}

// The point size of gnuplot that looks alike: svg's markers are larger, and pngcairo's diamond is
// smaller than its other markers.
double marker_size(Marker marker, bool svg) {
  if (svg) return 0.7;
  return marker == Marker::kDiamond ? 2.1 : 1.4;
}

// A line's sample or a marker, and the name behind it. `id` numbers gnuplot's labels and arrows.
void append_legend_entry(std::string& script, const Series& series, int id, double x, double y,
                         const Figure& figure, const Layout& at) {
  const double em = at.em;
  const auto screen = [&](double px, double py) {
    return fmt::format("screen {:.5f}, screen {:.5f}", px / figure.width, py / figure.height);
  };
  const char* color = kColors[static_cast<size_t>(series.color) % kColors.size()];
  if (series.look == Look::kBand) {
    script += fmt::format(
        "set object {} rectangle from {} to {} fc rgb '#{}' fs transparent solid 0.25 noborder\n",
        id, screen(x, y - 0.35 * em), screen(x + 2.2 * em, y + 0.35 * em), color);
  } else if (series.look != Look::kMarkers) {
    script += fmt::format("set arrow {} from {} to {} nohead lw 2.5 dt {} lc rgb '#{}'\n", id,
                          screen(x, y), screen(x + 2.2 * em, y), series.dash, color);
  }
  if (series.look == Look::kMarkers || series.look == Look::kLineMarkers) {
    script += fmt::format("set label {} '' at {} point pt {} ps {} lc rgb '#{}'\n", id,
                          screen(x + 1.1 * em, y), static_cast<int>(series.marker),
                          marker_size(series.marker, at.svg), color);
  }
  script += fmt::format("set label {} {} at {} left\n", id + 1, gnuplot_quote(series.name),
                        screen(x + 2.7 * em, y));
}

void append_legend(std::string& script, const Figure& figure, const Layout& at) {
  int id = 100;
  if (at.legend_beside) {
    double y = at.legend_y;
    for (const LegendEntry& entry : at.legend) {
      append_legend_entry(script, *entry.series, id, at.legend_x, y, figure, at);
      y -= 1.45 * at.em;
      id += 2;
    }
    return;
  }
  double y = at.legend_y;
  for (const std::vector<size_t>& row : at.legend_rows) {
    double width = 0;
    for (const size_t i : row) width += at.legend[i].width;
    double x = (figure.width - width) / 2;
    for (const size_t i : row) {
      append_legend_entry(script, *at.legend[i].series, id, x, y, figure, at);
      x += at.legend[i].width;
      id += 2;
    }
    y -= 1.5 * at.em;
  }
}

// A panel's plot and, around it, its cell with tics, labels and title; in pixels.
struct Frame {
  double left = 0, right = 0, bottom = 0, top = 0;
  double cell_left = 0, cell_bottom = 0;
};

Frame frame_of(const Figure& figure, const Layout& at, size_t index) {
  const auto columns = static_cast<size_t>(figure.columns);
  const size_t row = index / columns, column = index % columns;
  const size_t rows = (figure.panels.size() + columns - 1) / columns;
  const double cell_width = at.right / static_cast<double>(columns);
  const double cell_height = (at.top - at.base) / static_cast<double>(rows);
  double tics = 3.6;  // em
  if (const auto* map = std::get_if<HeatMap>(&figure.panels[index])) {
    tics = 0.8;
    for (const std::string& tic : map->y_tics) tics = std::max(tics, 0.8 + text_em(tic));
  }
  const bool titled =
      std::visit([](const auto& panel) { return !panel.title.empty(); }, figure.panels[index]);
  Frame frame;
  frame.cell_left = static_cast<double>(column) * cell_width;
  frame.cell_bottom = at.top - static_cast<double>(row + 1) * cell_height;
  frame.left = frame.cell_left + at.em * (2 + tics);
  frame.right = frame.cell_left + cell_width - 0.8 * at.em;
  frame.bottom = frame.cell_bottom + 4.1 * at.em;
  frame.top = frame.cell_bottom + cell_height - (titled ? 2.2 : 0.4) * at.em;
  return frame;
}

// Where the plot stands, and the labels of its axes: by their place in the picture, because
// gnuplot's own places follow the tics.
void append_frame(std::string& script, const Figure& figure, const Layout& at, const Frame& frame,
                  const std::string& x_label, const std::string& y_label) {
  const auto x = [&](double pixels) { return pixels / figure.width; };
  const auto y = [&](double pixels) { return pixels / figure.height; };
  script += fmt::format(
      "set lmargin at screen {:.5f}\nset rmargin at screen {:.5f}\n"
      "set bmargin at screen {:.5f}\nset tmargin at screen {:.5f}\n",
      x(frame.left), x(frame.right), y(frame.bottom), y(frame.top));
  script += fmt::format("set label 92 {} at graph 0.5, screen {:.5f} center\n",
                        gnuplot_quote(x_label), y(frame.cell_bottom + 1.1 * at.em));
  script += fmt::format("set label 93 {} at screen {:.5f}, graph 0.5 center rotate by 90\n",
                        gnuplot_quote(y_label), x(frame.cell_left + 0.9 * at.em));
}

void append_tics(std::string& script, char axis, const std::vector<Tic>& tics) {
  if (tics.empty()) return;
  script += fmt::format("set {}tics (", axis);
  for (size_t i = 0; i < tics.size(); ++i) {
    script +=
        fmt::format("{}{} {:.9g}", i == 0 ? "" : ", ", gnuplot_quote(tics[i].text), tics[i].at);
  }
  script += ")\n";
}

// `room` is the axis' length in em.
void append_axis(std::string& script, char name, const Axis& axis, Range range, double room) {
  script += axis.log ? fmt::format("set logscale {}\n", name) : "";
  script += fmt::format("set {}range [{:.9g}:{:.9g}]\n", name, range.low, range.high);
  append_tics(script, name, axis.tics.empty() ? tics_of(axis, range, room) : axis.tics);
}

void append_line(std::string& script, const ReferenceLine& line, int id) {
  const std::string at = fmt::format("{:.9g}", line.at);
  const std::string from = line.vertical ? "first " + at + ", graph 0" : "graph 0, first " + at;
  const std::string to = line.vertical ? "first " + at + ", graph 1" : "graph 1, first " + at;
  script += fmt::format("set arrow {} from {} to {} nohead lw 2 dt 2 lc rgb '#808080' back\n", id,
                        from, to);
}

bool drawable(const Axis& axis, double value) {
  return std::isfinite(value) && (!axis.log || value > 0);
}

std::string append_series(std::string& script, const Chart& chart, const Series& series,
                          const std::string& block, bool svg) {
  script += fmt::format("${} << EOD\n", block);
  for (const ChartPoint& p : series.points) {
    if (!drawable(chart.x, p.x) || !drawable(chart.y, p.y)) continue;
    script += fmt::format("{:.9g} {:.9g}", p.x, p.y);
    if (series.look == Look::kBand) script += fmt::format(" {:.9g} {:.9g}", p.low, p.high);
    script += "\n";
  }
  script += "EOD\n";
  const char* color = kColors[static_cast<size_t>(series.color) % kColors.size()];
  const auto marker = static_cast<int>(series.marker);
  const double size = marker_size(series.marker, svg);
  switch (series.look) {
    case Look::kBand:
      return fmt::format(
          "${} using 1:3:4 with filledcurves fs transparent solid 0.2 noborder lc rgb '#{}' "
          "notitle",
          block, color);
    case Look::kMarkers:
      return fmt::format("${} with points pt {} ps {} lc rgb '#{}' notitle", block, marker, size,
                         color);
    case Look::kLine:
      return fmt::format("${} with lines lw 2.5 dt {} lc rgb '#{}' notitle", block, series.dash,
                         color);
    case Look::kLineMarkers:
      break;
  }
  return fmt::format("${} with linespoints lw 2.5 dt {} pt {} ps {} lc rgb '#{}' notitle", block,
                     series.dash, marker, size, color);
}

void append_chart(std::string& script, const Chart& chart, size_t index, Range x, Range y,
                  double width_em, double height_em, bool svg) {
  append_axis(script, 'x', chart.x, x, width_em);
  append_axis(script, 'y', chart.y, y, 1.5 * height_em);  // lines are lower than words are wide
  script += kAxesStyle;
  int id = 1;
  for (const ReferenceLine& line : chart.lines) append_line(script, line, id++);
  std::string curves;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const std::string curve =
        append_series(script, chart, chart.series[i], fmt::format("panel{}_{}", index, i), svg);
    curves += (curves.empty() ? "plot " : ", \\\n     ") + curve;
  }
  script += curves + "\n";
  while (--id > 0) script += fmt::format("unset arrow {}\n", id);
}

// From a light to a dark blue; share 1 is dark.
unsigned shade(double share) {
  const auto mix = [&](double light, double dark) {
    return static_cast<unsigned>(std::lround(light + share * (dark - light)));
  };
  return mix(0xe8, 0x00) << 16 | mix(0xf1, 0x55) << 8 | mix(0xf8, 0x90);
}

// The range of all cells, or of one column.
Range cell_range(const HeatMap& map, std::optional<size_t> column) {
  Range range;
  for (const auto& row : map.rows) {
    for (size_t x = 0; x < row.size(); ++x) {
      if (row[x] && (!column || *column == x)) range.include(*row[x]);
    }
  }
  return range;
}

void append_cells(std::string& script, const HeatMap& map, const std::string& block) {
  std::string cells, texts;
  Range all = cell_range(map, std::nullopt);
  all = {map.lowest.value_or(all.low), map.highest.value_or(all.high)};
  for (size_t y = 0; y < map.rows.size(); ++y) {
    for (size_t x = 0; x < map.rows[y].size(); ++x) {
      const std::optional<double> value = map.rows[y][x];
      const Range range = map.shade_by_column ? cell_range(map, x) : all;
      unsigned color = 0xf2f2f2;
      double share = 0;
      if (value) {
        const double span = range.high - range.low;
        share = span > 0 ? (*value - range.low) / span : 0.5;
        if (map.low_is_dark) share = 1 - share;
        color = shade(share);
      }
      const auto column = static_cast<double>(x), row = static_cast<double>(y);
      cells += fmt::format("{} {} {} {} {} {} {}\n", column, row, column - 0.48, column + 0.48,
                           row - 0.48, row + 0.48, color);
      texts += fmt::format("{} {} \"{}\" {}\n", column, row,
                           value ? fmt::format("{:.{}f}", *value, map.digits) : map.missing,
                           share > 0.55 ? 0xffffff
                           : value      ? 0x202020
                                        : 0x909090);
    }
  }
  script += fmt::format("${} << EOD\n{}EOD\n${}_text << EOD\n{}EOD\n", block, cells, block, texts);
}

std::vector<Tic> numbered(const std::vector<std::string>& texts) {
  std::vector<Tic> tics;
  for (const std::string& text : texts) tics.push_back({static_cast<double>(tics.size()), text});
  return tics;
}

void append_heat_map(std::string& script, const HeatMap& map, size_t index) {
  QUEST_CHECK(!cell_range(map, std::nullopt).is_empty(), ErrorKind::kData,
              "there is no value to draw in the heat map '{}'", map.title);
  const std::string block = fmt::format("panel{}", index);
  append_cells(script, map, block);
  script += fmt::format("set xrange [-0.5:{}]\nset yrange [{}:-0.5]\n",
                        static_cast<double>(map.x_tics.size()) - 0.5,
                        static_cast<double>(map.y_tics.size()) - 0.5);
  script += "unset grid\nset border 0\nset tics nomirror out scale 0\n";
  append_tics(script, 'x', numbered(map.x_tics));
  append_tics(script, 'y', numbered(map.y_tics));
  script += fmt::format(
      "plot ${} using 1:2:3:4:5:6:7 with boxxyerror fs solid noborder lc rgb variable notitle, \\\n"
      "     ${}_text using 1:2:3:4 with labels tc rgb variable notitle\n",
      block, block);
}

// Ranges of all charts, in the order of the panels; empty for heat maps.
std::vector<std::pair<Range, Range>> chart_ranges(const Figure& figure) {
  std::vector<std::pair<Range, Range>> ranges;
  Range all_y;
  for (const auto& panel : figure.panels) {
    ranges.emplace_back();
    const Chart* chart = std::get_if<Chart>(&panel);
    if (chart == nullptr) continue;
    auto& [x, y] = ranges.back();
    for (const Series& series : chart->series) {
      for (const ChartPoint& p : series.points) {
        if (!drawable(chart->x, p.x) || !drawable(chart->y, p.y)) continue;
        x.include(p.x);
        for (const double value : {p.y, p.low, p.high}) {
          if (drawable(chart->y, value)) y.include(value);
        }
      }
    }
    QUEST_CHECK(!x.is_empty(), ErrorKind::kData, "there is no point to draw in the chart '{}'",
                chart->title.empty() ? figure.title : chart->title);
    for (const ReferenceLine& line : chart->lines) (line.vertical ? x : y).include(line.at);
    all_y.include(y);
  }
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Chart* chart = std::get_if<Chart>(&figure.panels[i]);
    if (chart == nullptr) continue;
    ranges[i].first = shown_range(chart->x, ranges[i].first);
    ranges[i].second = shown_range(chart->y, figure.same_y ? all_y : ranges[i].second);
  }
  return ranges;
}

void append_texts(std::string& script, const Figure& figure, const Layout& at) {
  if (!figure.title.empty()) {
    script +=
        fmt::format("set label 90 {} at screen 0.5, screen {:.5f} center font ',{}'\n",
                    gnuplot_quote(figure.title), 1 - 1.3 * at.em / figure.height, at.font + 2);
  }
  if (!figure.note.empty()) {
    script += fmt::format(
        "set label 91 {} at screen 0.012, screen {:.5f} left tc rgb '#606060' font ',{}'\n",
        gnuplot_quote(figure.note), 0.9 * at.em / figure.height, at.font * 4 / 5);
  }
}

}  // namespace

std::string figure_script(const Figure& figure, std::string_view extension) {
  QUEST_CHECK(!figure.panels.empty(), ErrorKind::kData, "there is nothing to draw in '{}'",
              figure.title);
  QUEST_ASSERT(figure.columns >= 1, "columns {}", figure.columns);
  const Layout at = layout_of(figure, extension == ".svg");
  const std::vector<std::pair<Range, Range>> ranges = chart_ranges(figure);
  std::string script = script_start(extension, figure.width, figure.height, at.font, figure.scale);
  script += "set multiplot\nunset key\n";
  if (at.svg) script += "set xtics offset 0,0.6\n";  // svg's tics are longer
  append_texts(script, figure, at);
  append_legend(script, figure, at);
  for (size_t i = 0; i < figure.panels.size(); ++i) {
    const Frame frame = frame_of(figure, at, i);
    const std::string title = std::visit([](const auto& p) { return p.title; }, figure.panels[i]);
    script += fmt::format("set title {}\nunset logscale\nset xtics auto\nset ytics auto\n",
                          gnuplot_quote(title));
    if (const Chart* chart = std::get_if<Chart>(&figure.panels[i])) {
      append_frame(script, figure, at, frame, chart->x.label, chart->y.label);
      append_chart(script, *chart, i, ranges[i].first, ranges[i].second,
                   (frame.right - frame.left) / at.em, (frame.top - frame.bottom) / at.em, at.svg);
    } else {
      const HeatMap& map = std::get<HeatMap>(figure.panels[i]);
      append_frame(script, figure, at, frame, map.x_label, map.y_label);
      append_heat_map(script, map, i);
    }
    if (i == 0) script += "unset label\nunset arrow\nunset object\n";
  }
  return script + "unset multiplot\nunset output\n";
}

void write_figure(const Figure& figure, const std::filesystem::path& output) {
  run_gnuplot(figure_script(figure, output.extension().string()), output);
}

}  // namespace quest::plot
