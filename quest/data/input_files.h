// Names on a command line to text files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quest {

// Files as they are, folders to all text files below (by path), globs to what they match (by name;
// also folders), "-" as it is. Each file once, in the order of its first mention. Throws kUsage if
// nothing is named, kIo for a name that is not there, a glob or a folder without text files.
std::vector<std::string> find_input_files(const std::vector<std::string>& inputs);

// The name without .gz or .zst.
std::string_view without_compression_suffix(std::string_view name);
// .jsonl or .ndjson, perhaps compressed.
bool is_jsonl_name(std::string_view name);

}  // namespace quest
