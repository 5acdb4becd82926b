// What all pictures have in common: colors, the head of a gnuplot script, grid and border.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace quest::plot {

// Okabe & Ito, "Color universal design" (2008), without yellow, which is hard to see on white.
inline constexpr std::array<const char*, 7> kColors = {"0072B2", "D55E00", "009E73", "CC79A7",
                                                       "E69F00", "56B4E9", "000000"};

// Grid, border and tics.
inline constexpr std::string_view kAxesStyle =
    "set grid lc rgb '#d0d0d0' lw 1 dt 1\n"
    "set border 3 lc rgb '#606060'\n"
    "set tics nomirror out\n";

// The first lines of a script: encoding, terminal, output. `extension` is ".png" or ".svg"; `font`
// in points; `scale` multiplies size, letters and lines of a PNG (an SVG has no pixels). Throws
// kUsage for another extension or a size that is not within 100 to 20000 pixels.
std::string script_start(std::string_view extension, int width, int height, int font = 20,
                         double scale = 1);

}  // namespace quest::plot
