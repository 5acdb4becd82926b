// The bytes of a whole file in memory, mapped or read.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace quest {

enum class FileAccess {
  kMap,   // the page cache itself: no memory of its own, shared with other processes
  kRead,  // a private copy on huge pages (2 MB) where the system gives them: faster to stream
          // through many times, and nobody can change it any more
};

// What is faster for a file that is read again and again: kRead where there are huge pages and the
// copy leaves an eighth of the memory that is free, else kMap.
FileAccess fastest_access(const std::filesystem::path& path);

// Throws kIo with the path and the reason. An empty file gives an empty span.
// Thread rules: const after construction; may be read from any number of threads.
class FileBytes {
 public:
  explicit FileBytes(const std::filesystem::path& path, FileAccess access = FileAccess::kMap);
  ~FileBytes();
  FileBytes(FileBytes&& other) noexcept;
  FileBytes& operator=(FileBytes&& other) noexcept;
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // A hint that bytes [begin, begin + count) are read soon: the system begins to fetch what of a
  // mapped file is not in memory, and nobody waits for it. What lies beyond the file is left out.
  void will_read(size_t begin, size_t count) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;  // what is unmapped at the end
  size_t mapping_size_ = 0;
  bool is_mapped_ = false;
};

}  // namespace quest
