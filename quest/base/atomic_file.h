// One file, complete under its name or not there at all: written to a temporary sibling, published
// by rename after fsync. What stood under the name before stays until that moment, also on a full
// disk.
//
//   AtomicFile out("tokens.bin");
//   out.write(header);  out.write(std::as_bytes(tokens));
//   out.publish();
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace quest {

// Writes go through a buffer of 1 MiB. All errors are kIo with the path and the system's reason.
// The destructor removes the temporary file if publish() was not reached. Not thread safe.
class AtomicFile {
 public:
  // The folder must exist. A destination that is a folder, device or pipe is refused: the rename
  // would put a file in its place.
  explicit AtomicFile(std::filesystem::path destination);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  // Bytes given to write() so far.
  int64_t size() const { return size_; }
  // Overwrites bytes already written, for a header that is known last. Throws kUsage past the end.
  void overwrite(int64_t offset, std::span<const std::byte> bytes);
  // Flushes, fsyncs, renames, fsyncs the folder.
  void publish();

 private:
  void flush();
  void write_fully(std::span<const std::byte> bytes, int64_t offset);

  std::filesystem::path destination_;
  std::filesystem::path temporary_;
  std::vector<std::byte> buffer_;
  int64_t flushed_ = 0;  // bytes in the file
  int64_t size_ = 0;     // bytes in the file and the buffer
  int fd_ = -1;
};

}  // namespace quest
