// Publish last: a file or folder is complete under its name or not there at all.
//
//   AtomicFolder out(run / "checkpoints" / "step-000100");  // creates a temporary sibling
//   write files below out.path() ...
//   out.publish();                                          // checksums, fsync, rename
#pragma once

#include <filesystem>
#include <string_view>

namespace quest {

// The destructor removes the temporary folder if publish() was not reached. A left-over temporary
// folder of a killed process ("<name>.tmp-<pid>") is never taken for a result;
// remove_stale_temporaries deletes such siblings.
class AtomicFolder {
 public:
  explicit AtomicFolder(std::filesystem::path destination);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  // Writes "checksums.json" (XXH3-128 and size of each file), fsyncs every file and folder,
  // renames. If the destination exists it is replaced. Throws kIo.
  void publish();

 private:
  std::filesystem::path destination_;
  std::filesystem::path temporary_;
  bool published_ = false;
};

void remove_stale_temporaries(const std::filesystem::path& parent);

// Proves a published folder: every file of checksums.json is there with its size and checksum.
// Throws kData naming the first file that differs. A folder without checksums.json: kData.
void verify_folder(const std::filesystem::path& folder);

// Same promise for one file: temporary sibling, fsync, rename. Throws kIo.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);
// Whole file as a string; throws kIo with path and reason.
std::string read_file(const std::filesystem::path& path);

}  // namespace quest
