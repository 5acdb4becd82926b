// make_corpus FOLDER: writes the seeds of each target to FOLDER/<target>/seed-<i>.
#include "fuzz/entry_points.h"
#include <cstdio>
#include <exception>

#include <fmt/format.h>

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: make_corpus FOLDER\n");
    return 2;
  }
  try {
    for (const quest::fuzz::Target& target : quest::fuzz::targets()) {
      const std::filesystem::path folder = std::filesystem::path(argv[1]) / target.name;
      std::filesystem::create_directories(folder);
      int i = 0;
      for (const std::string& seed : target.seeds()) {
        quest::write_file_atomically(folder / fmt::format("seed-{}", i++), seed);
      }
      fmt::print("{}: {} seeds\n", folder.string(), i);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "make_corpus: {}\n", error.what());
    return 1;
  }
  return 0;
}
