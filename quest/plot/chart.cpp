#include "quest/plot/chart.h"

#include <algorithm>
#include <set>

#include "quest/base/error.h"
#include "quest/plot/chart_axis.h"
#include "quest/plot/chart_style.h"
#include "quest/plot/gnuplot.h"

namespace quest::plot {
namespace {

constexpr double kPixelsPerPoint = 4.0 / 3;  // pngcairo; svg's letters are smaller than this
constexpr double kLetterEm = 0.62;           // mean width of a letter of DejaVu Sans, rounded up

// Columns of text: characters of UTF-8.
double text_columns(std::string_view text) {
  return static_cast<double>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

struct LegendEntry {
  const Series* series;
  double width;  // pixels, with the sample
};

// Where everything is, in pixels from the left lower corner.
struct Layout {
  int font = 20;    // points
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
      entries.push_back({&series, em * (3.4 + kLetterEm * text_columns(series.name))});
    }
  }
  return entries;
}

int font_of(int columns) { return columns <= 1 ? 20 : columns == 2 ? 17 : columns == 3 ? 15 : 13; }

Layout layout_of(const Figure& figure) {
  Layout at;
  at.font = font_of(figure.columns);
  at.em = at.font * kPixelsPerPoint;
  at.legend = legend_of(figure, at.em);
  at.top = figure.height - at.em * (figure.title.empty() ? 0.8 : 2.6);
  at.base = figure.note.empty() ? 0.2 * at.em : 1.6 * at.em;
  at.right = figure.width - 0.8 * at.em;
  if (at.legend.empty()) return at;
  double widest = 0;
  for (const LegendEntry& entry : at.legend) widest = std::max(widest, entry.width);
  // Beside a single chart, if that leaves it most of the picture; else below the panels.
  at.legend_beside = figure.panels.size() == 1 && widest < 0.4 * figure.width;
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

// A line's sample or a marker, and the name behind it. `id` numbers gnuplot's labels and arrows.
void append_legend_entry(std::string& script, const Series& series, int id, double x, double y,
                         const Figure& figure, double em) {
  const auto screen = [&](double px, double py) {
    return fmt::format("screen {:.5f}, screen {:.5f}", px / figure.width, py / figure.height);
  };
  const char* color = kColors[static_cast<size_t>(series.color) % kColors.size()];
  if (series.look == Look::kBand) {
    script += fmt::format(
        "set object {} rectangle from {} to {} fc rgb '#{}' fs transparent solid 0.25 noborder\n",
        id, screen(x, y - 0.35 * em), screen(x + 1.8 * em, y + 0.35 * em), color);
  } else if (series.look != Look::kMarkers) {
    script += fmt::format("set arrow {} from {} to {} nohead lw 3 dt {} lc rgb '#{}'\n", id,
                          screen(x, y), screen(x + 1.8 * em, y), series.dash, color);
  }
  if (series.look == Look::kMarkers || series.look == Look::kLineMarkers) {
    script += fmt::format("set label {} '' at {} point pt {} ps 1.4 lc rgb '#{}'\n", id,
                          screen(x + 0.9 * em, y), static_cast<int>(series.marker), color);
  }
  script += fmt::format("set label {} {} at {} left\n", id + 1, gnuplot_quote(series.name),
                        screen(x + 2.3 * em, y));
}

void append_legend(std::string& script, const Figure& figure, const Layout& at) {
  int id = 100;
  if (at.legend_beside) {
    double y = at.legend_y;
    for (const LegendEntry& entry : at.legend) {
      append_legend_entry(script, *entry.series, id, at.legend_x, y, figure, at.em);
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
      append_legend_entry(script, *at.legend[i].series, id, x, y, figure, at.em);
      x += at.legend[i].width;
      id += 2;
    }
    y -= 1.5 * at.em;
  }
}

// Margins of panel `index`: the plot itself, with room for tics, labels and title around it.
void append_margins(std::string& script, const Figure& figure, const Layout& at, size_t index) {
  const auto columns = static_cast<size_t>(figure.columns);
  const size_t row = index / columns, column = index % columns;
  const size_t rows = (figure.panels.size() + columns - 1) / columns;
  const double cell_width = at.right / static_cast<double>(columns);
  const double cell_height = (at.top - at.base) / static_cast<double>(rows);
  double left = 5.2 * at.em;
  double title = 0;
  std::visit([&](const auto& panel) { title = panel.title.empty() ? 0.4 : 1.9; },
             figure.panels[index]);
  if (const auto* map = std::get_if<HeatMap>(&figure.panels[index])) {
    double longest = 0;
    for (const std::string& tic : map->y_tics) longest = std::max(longest, text_columns(tic));
    left = at.em * (3.2 + kLetterEm * longest);
  }
  const double x = static_cast<double>(column) * cell_width;
  const double y = at.top - static_cast<double>(row + 1) * cell_height;
  script += fmt::format(
      "set lmargin at screen {:.5f}\nset rmargin at screen {:.5f}\n"
      "set bmargin at screen {:.5f}\nset tmargin at screen {:.5f}\n",
      (x + left) / figure.width, (x + cell_width - 0.6 * at.em) / figure.width,
      (y + 3.6 * at.em) / figure.height, (y + cell_height - title * at.em) / figure.height);
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

void append_axis(std::string& script, char name, const Axis& axis, Range range) {
  script += fmt::format("set {}label {}\n", name, gnuplot_quote(axis.label));
  script += axis.log ? fmt::format("set logscale {}\n", name) : "";
  script += fmt::format("set {}range [{:.9g}:{:.9g}]\n", name, range.low, range.high);
  append_tics(script, name, axis.tics.empty() ? tics_of(axis, range) : axis.tics);
}

void append_line(std::string& script, const ReferenceLine& line, int id, int font) {
  if (line.vertical) {
    script += fmt::format(
        "set arrow {} from first {:.9g}, graph 0 to first {:.9g}, graph 1 nohead lw 2 dt 2 lc rgb "
        "'#606060' back\n",
        id, line.at, line.at);
    script += fmt::format(
        "set label {} {} at first {:.9g}, graph 0.97 left offset char 0.6,0 tc rgb '#606060' font "
        "',{}'\n",
        id, gnuplot_quote(line.text), line.at, font * 4 / 5);
    return;
  }
  script += fmt::format(
      "set arrow {} from graph 0, first {:.9g} to graph 1, first {:.9g} nohead lw 2 dt 2 lc rgb "
      "'#606060' back\n",
      id, line.at, line.at);
  script += fmt::format(
      "set label {} {} at graph 0.02, first {:.9g} left offset char 0,0.5 tc rgb '#606060' font "
      "',{}'\n",
      id, gnuplot_quote(line.text), line.at, font * 4 / 5);
}

bool drawable(const Axis& axis, double value) {
  return std::isfinite(value) && (!axis.log || value > 0);
}

std::string append_series(std::string& script, const Chart& chart, const Series& series,
                          const std::string& block) {
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
  switch (series.look) {
    case Look::kBand:
      return fmt::format(
          "${} using 1:3:4 with filledcurves fs transparent solid 0.2 noborder lc rgb '#{}' "
          "notitle",
          block, color);
    case Look::kMarkers:
      return fmt::format("${} with points pt {} ps 1.5 lc rgb '#{}' notitle", block, marker, color);
    case Look::kLine:
      return fmt::format("${} with lines lw 2.5 dt {} lc rgb '#{}' notitle", block, series.dash,
                         color);
    case Look::kLineMarkers:
      break;
  }
  return fmt::format("${} with linespoints lw 2.5 dt {} pt {} ps 1.3 lc rgb '#{}' notitle", block,
                     series.dash, marker, color);
}

void append_chart(std::string& script, const Chart& chart, size_t index, Range x, Range y,
                  int font) {
  append_axis(script, 'x', chart.x, x);
  append_axis(script, 'y', chart.y, y);
  script += kAxesStyle;
  int id = 1;
  for (const ReferenceLine& line : chart.lines) append_line(script, line, id++, font);
  std::string curves;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const std::string curve =
        append_series(script, chart, chart.series[i], fmt::format("panel{}_{}", index, i));
    curves += (curves.empty() ? "plot " : ", \\\n     ") + curve;
  }
  script += curves + "\n";
  for (int i = 1; i < id; ++i) script += fmt::format("unset arrow {}\nunset label {}\n", i, i);
}

// White to the palette's blue; share 1 is dark.
unsigned shade(double share) {
  const auto mix = [&](unsigned dark) {
    return static_cast<unsigned>(std::lround(255 + share * (static_cast<double>(dark) - 255)));
  };
  return mix(0x00) << 16 | mix(0x5a) << 8 | mix(0x95);
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
  const Range all = cell_range(map, std::nullopt);
  for (size_t y = 0; y < map.rows.size(); ++y) {
    for (size_t x = 0; x < map.rows[y].size(); ++x) {
      const std::optional<double> value = map.rows[y][x];
      const Range range = map.shade_by_column ? cell_range(map, x) : all;
      unsigned color = 0xf0f0f0;
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
                           value ? fmt::format("{:.{}f}", *value, map.digits) : "–",
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
  script += fmt::format("set xlabel {}\nset ylabel {}\n", gnuplot_quote(map.x_label),
                        gnuplot_quote(map.y_label));
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
                    gnuplot_quote(figure.title), 1 - 1.2 * at.em / figure.height, at.font + 1);
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
  const Layout at = layout_of(figure);
  const std::vector<std::pair<Range, Range>> ranges = chart_ranges(figure);
  std::string script = script_start(extension, figure.width, figure.height, at.font);
  script += "set multiplot\nunset key\n";
  append_texts(script, figure, at);
  append_legend(script, figure, at);
  for (size_t i = 0; i < figure.panels.size(); ++i) {
    append_margins(script, figure, at, i);
    std::visit(
        [&](const auto& panel) {
          script += fmt::format("set title {}\nunset logscale\nset xtics auto\nset ytics auto\n",
                                gnuplot_quote(panel.title));
        },
        figure.panels[i]);
    if (const Chart* chart = std::get_if<Chart>(&figure.panels[i])) {
      append_chart(script, *chart, i, ranges[i].first, ranges[i].second, at.font);
    } else {
      append_heat_map(script, std::get<HeatMap>(figure.panels[i]), i);
    }
    if (i == 0) script += "unset label\nunset arrow\nunset object\n";
  }
  return script + "unset multiplot\nunset output\n";
}

void write_figure(const Figure& figure, const std::filesystem::path& output) {
  run_gnuplot(figure_script(figure, output.extension().string()), output);
}

}  // namespace quest::plot
