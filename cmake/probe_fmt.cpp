// Links only if static_fmt.cpp has what programs use of fmt (QuestSingleFile.cmake).
#include <cstdio>

#include <fmt/format.h>

int main(int argc, char** argv) {
  try {
    fmt::print(stderr, "{} {:.3f} {:>10} {}", argc, 0.5 * argc, argv[0], 1.5f);
    return fmt::format("{:L} {}", argc, static_cast<unsigned long long>(argc)).empty() ? 1 : 0;
  } catch (const fmt::format_error&) {
    return 1;
  }
}
