#include "quest/cli/paper_data.h"

#include "quest/base/error.h"

namespace quest::cli {
namespace {

namespace fs = std::filesystem;

fs::path first_of(const char* name) {
  for (const char* folder : {"data", QUEST_DATA_SOURCE, QUEST_DATA_INSTALLED}) {
    if (fs::exists(fs::path(folder) / name)) return fs::path(folder) / name;
  }
  QUEST_THROW(ErrorKind::kIo,
              "{} was found neither in data here, nor in {}, nor in {}; it is part of the "
              "repository{}",
              name, QUEST_DATA_SOURCE, QUEST_DATA_INSTALLED,
              std::string_view(name) == "paper" ? " (--paper-data names another place)" : "");
}

}  // namespace

fs::path paper_data_folder(const std::string& named) {
  return named.empty() ? first_of("paper") : fs::path(named);
}

fs::path expectations_file() { return first_of("expectations.json"); }

}  // namespace quest::cli
