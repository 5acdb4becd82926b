// Publish last: a file or folder is complete under its name or not there at all.
//
//   AtomicFolder out(run / "checkpoints" / "step-000100");  // creates a temporary sibling
//   write files below out.path() ...
//   out.publish();                                          // checksums, fsync, rename
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace quest {

// The parent folder is created if it is missing. The destructor removes the temporary folder if
// publish() was not reached. A left-over temporary folder of a killed process
// ("<name>.tmp-<pid>-<n>") is never taken for a result; remove_stale_temporaries deletes such
// siblings. Errors: kIo. One thread at a time.
class AtomicFolder {
 public:
  explicit AtomicFolder(std::filesystem::path destination);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  // Writes "checksums.json" (XXH3-128 and size of each file), fsyncs every file and folder,
  // renames. A folder that stands at the destination is replaced by one atomic exchange. Where the
  // file system cannot exchange, the old folder is first renamed to "<name>.old-<pid>-<n>"; if the
  // process is killed before the new one has the name, remove_stale_temporaries brings the old one
  // back. Throws kIo, and then what stood at the destination is untouched; a file there is refused.
  void publish();

 private:
  std::filesystem::path destination_;
  std::filesystem::path temporary_;
  bool published_ = false;
};

// Deletes what processes that no longer live left half-written in `parent` (files and folders), and
// restores a folder whose replacement was interrupted. A missing parent is no error. Processes are
// told by their pid: call it only where all writers are of one machine.
void remove_stale_temporaries(const std::filesystem::path& parent);

// Proves a published folder: every file of checksums.json is there with its size and checksum.
// Files that it does not list may have been added. Throws kData naming the first file that differs.
// A folder without checksums.json: kData.
void verify_folder(const std::filesystem::path& folder);

// Same promise for one file: temporary sibling, fsync, rename. Throws kIo. For larger or growing
// files there is AtomicFile.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);
// Whole file as a string; throws kIo with path and reason.
std::string read_file(const std::filesystem::path& path);

namespace internal {
// Puts `folder` in the place of the existing folder `destination`, without the exchange that not
// every file system has. Its own function so that tests reach it everywhere.
void replace_folder_without_exchange(const std::filesystem::path& folder,
                                     const std::filesystem::path& destination);
}  // namespace internal

}  // namespace quest
