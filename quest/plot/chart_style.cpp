#include "quest/plot/chart_style.h"

#include <cmath>

#include "quest/base/error.h"

namespace quest::plot {

std::string script_start(std::string_view extension, int width, int height, int font,
                         double scale) {
  QUEST_CHECK(extension == ".png" || extension == ".svg", ErrorKind::kUsage,
              "cannot write a picture of type '{}': the file name must end in .png or .svg",
              extension);
  const bool is_png = extension == ".png";
  if (is_png) {
    width = static_cast<int>(std::lround(width * scale));
    height = static_cast<int>(std::lround(height * scale));
  }
  for (const int size : {width, height}) {
    QUEST_CHECK(size >= 100 && size <= 20000, ErrorKind::kUsage,
                "the picture's size {} x {} is not within 100 to 20000 pixels", width, height);
  }
  const std::string scaled =
      is_png && scale != 1 ? fmt::format(" fontscale {0} linewidth {0} pointscale {0}", scale) : "";
  return fmt::format(
      "set encoding utf8\n"
      "set terminal {} size {},{} font 'DejaVu Sans,{}'{} noenhanced background '#ffffff'\n"
      "set output quest_output\n",
      is_png ? "pngcairo" : "svg", width, height, font, scaled);
}

}  // namespace quest::plot
