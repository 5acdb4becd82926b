// Names of temporary siblings, "<name>.tmp-<pid>-<n>": how AtomicFile and AtomicFolder choose them
// and how the left-overs of killed processes are told from those in use. Used inside base only.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace quest::internal {

// A name beside `destination` that this process uses for nothing else, noted as in use. `tag` is
// "tmp", or "old" for a folder that is being replaced. What a dead process with the same pid left
// there is removed. Throws kIo.
std::filesystem::path claim_temporary(const std::filesystem::path& destination,
                                      std::string_view tag);
void release_temporary(const std::filesystem::path& temporary);

// The parts of such a name; nullopt for any other.
struct TemporaryName {
  std::string destination;  // "<name>"
  std::string tag;          // "tmp" or "old"
  bool in_use = false;      // by this process or by another that lives
};
std::optional<TemporaryName> parse_temporary(const std::filesystem::path& path);

// fsync of a file or folder by its path; throws kIo.
void fsync_path(const std::filesystem::path& path);
// The folder that holds `path`; "." for a bare name.
std::filesystem::path parent_folder(const std::filesystem::path& path);

}  // namespace quest::internal
