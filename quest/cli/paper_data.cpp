#include "quest/cli/paper_data.h"

#include "quest/base/error.h"

namespace quest::cli {

std::filesystem::path paper_data_folder(const std::string& named) {
  if (!named.empty()) return named;
  for (const char* folder : {"data/paper", QUEST_PAPER_SOURCE, QUEST_PAPER_INSTALLED}) {
    if (std::filesystem::exists(folder)) return folder;
  }
  QUEST_THROW(ErrorKind::kIo,
              "the paper's numbers, data/paper of the repository, are neither here nor in {} nor "
              "in {}; name data of your own (see --help)",
              QUEST_PAPER_SOURCE, QUEST_PAPER_INSTALLED);
}

}  // namespace quest::cli
