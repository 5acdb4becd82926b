// Where the data that the program brings along lie: the paper's numbers (data/paper) and what our
// own reproductions of its experiments gave (data/expectations.json).
#pragma once

#include <filesystem>
#include <string>

namespace quest::cli {

// The folder named, or data/paper here, of the source tree, or as installed: the first that is
// there. Throws kIo if there is none.
std::filesystem::path paper_data_folder(const std::string& named = {});
// The same for the file of expectations.
std::filesystem::path expectations_file();

}  // namespace quest::cli
