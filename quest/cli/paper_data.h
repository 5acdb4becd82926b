// Where the paper's numbers (data/paper) lie.
#pragma once

#include <filesystem>

namespace quest::cli {

// The folder in the source tree, or the one that was installed. Throws kIo if both are gone.
std::filesystem::path paper_data_folder();

}  // namespace quest::cli
