#include "quest/plot/chart_style.h"

#include "quest/base/error.h"

namespace quest::plot {

std::string script_start(std::string_view extension, int width, int height, int font) {
  for (const int size : {width, height}) {
    QUEST_CHECK(size >= 100 && size <= 20000, ErrorKind::kUsage,
                "the picture's size {} x {} is not within 100 to 20000 pixels", width, height);
  }
  QUEST_CHECK(extension == ".png" || extension == ".svg", ErrorKind::kUsage,
              "cannot write a picture of type '{}': the file name must end in .png or .svg",
              extension);
  return fmt::format(
      "set encoding utf8\n"
      "set terminal {} size {},{} font 'DejaVu Sans,{}' noenhanced background '#ffffff'\n"
      "set output quest_output\n",
      extension == ".png" ? "pngcairo" : "svg", width, height, font);
}

}  // namespace quest::plot
