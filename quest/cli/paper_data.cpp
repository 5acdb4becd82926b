#include "quest/cli/paper_data.h"

#include "quest/base/error.h"

namespace quest::cli {

std::filesystem::path paper_data_folder() {
  for (const char* folder : {QUEST_PAPER_SOURCE, QUEST_PAPER_INSTALLED}) {
    if (std::filesystem::exists(folder)) return folder;
  }
  QUEST_THROW(ErrorKind::kIo, "the paper's data of the source tree ({}) are gone; name your own",
              QUEST_PAPER_SOURCE);
}

}  // namespace quest::cli
