// Where the paper's numbers (data/paper) lie.
#pragma once

#include <filesystem>
#include <string>

namespace quest::cli {

// The folder that is named; without a name data/paper here, in the source tree, or installed, the
// first that is there. Throws kIo if none is.
std::filesystem::path paper_data_folder(const std::string& named = {});

}  // namespace quest::cli
