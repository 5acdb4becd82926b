// A read-only memory-mapped file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace quest {

// Maps a whole file. Throws kIo with the path and the reason. An empty file gives an empty span.
// Thread rules: const after construction; may be read from any number of threads.
class MmapFile {
 public:
  explicit MmapFile(const std::filesystem::path& path);
  ~MmapFile();
  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;
  MmapFile(const MmapFile&) = delete;
  MmapFile& operator=(const MmapFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace quest
