#include "quest/base/file_bytes.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <fstream>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "quest/base/error.h"
#include "quest/base/memory_info.h"

namespace quest {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kReadBytes = size_t{64} << 20;  // at once

// A descriptor that is closed at the end.
struct OpenFile {
  int fd;
  ~OpenFile() {
    if (fd >= 0) close(fd);
  }
};

void read_whole(int fd, std::byte* data, size_t size, const std::filesystem::path& path) {
  for (size_t at = 0; at < size;) {
    const ssize_t count =
        pread(fd, data + at, std::min(size - at, kReadBytes), static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    QUEST_CHECK(count >= 0, ErrorKind::kIo, "cannot read {}: {}", path.string(), errno_text(errno));
    QUEST_CHECK(count > 0, ErrorKind::kIo, "{} was cut short to {} bytes while it was read",
                path.string(), at);
    at += static_cast<size_t>(count);
  }
}

}  // namespace

FileAccess fastest_access(const std::filesystem::path& path) {
  std::ifstream pages("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string text;
  std::getline(pages, text);
  if (text.empty() || text.find("[never]") != std::string::npos) return FileAccess::kMap;
  const auto available = static_cast<uintmax_t>(system_memory().available_bytes);
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  return !error && size / 7 <= available / 8 ? FileAccess::kRead : FileAccess::kMap;
}

FileBytes::FileBytes(const std::filesystem::path& path, FileAccess access) : path_(path) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer before it is refused below.
  const OpenFile file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  QUEST_CHECK(file.fd >= 0, ErrorKind::kIo, "cannot open {}: {}", path.string(), errno_text(errno));
  struct stat status;
  QUEST_CHECK(fstat(file.fd, &status) == 0, ErrorKind::kIo, "cannot examine {}: {}", path.string(),
              errno_text(errno));
  QUEST_CHECK(S_ISREG(status.st_mode), ErrorKind::kIo,
              "cannot map {}: it is {}, not a regular file", path.string(),
              S_ISDIR(status.st_mode) ? "a folder" : "a device, pipe or socket");
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;
  const bool read = access == FileAccess::kRead;
  // Room to begin at a huge page.
  mapping_size_ = read ? (size_ + kHugePage - 1) / kHugePage * kHugePage + kHugePage : size_;
  mapping_ = read ? mmap(nullptr, mapping_size_, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                  : mmap(nullptr, mapping_size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    QUEST_THROW(ErrorKind::kIo, "cannot {} {} ({} bytes): {}", read ? "get memory for" : "map",
                path.string(), size_, errno_text(errno));
  }
  auto* data = static_cast<std::byte*>(mapping_);
  if (read) {
    const auto address = reinterpret_cast<uintptr_t>(mapping_);
    data += (kHugePage - address % kHugePage) % kHugePage;
    madvise(data, (size_ + kHugePage - 1) / kHugePage * kHugePage, MADV_HUGEPAGE);
    try {
      read_whole(file.fd, data, size_, path);
    } catch (...) {
      munmap(mapping_, mapping_size_);
      throw;
    }
    mprotect(mapping_, mapping_size_, PROT_READ);
  }
  data_ = data;
  is_mapped_ = !read;
}

void FileBytes::will_read(size_t begin, size_t count) const {
  if (!is_mapped_ || begin >= size_ || count == 0) return;
  const size_t end = begin + std::min(count, size_ - begin);
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t first = begin / page * page;  // the mapping begins at a page
  // A hint that the system does not take changes nothing.
  madvise(static_cast<std::byte*>(mapping_) + first, end - first, MADV_WILLNEED);
}

FileBytes::~FileBytes() {
  if (mapping_ != nullptr) munmap(mapping_, mapping_size_);
}

FileBytes::FileBytes(FileBytes&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_size_(std::exchange(other.mapping_size_, 0)),
      is_mapped_(std::exchange(other.is_mapped_, false)) {}

FileBytes& FileBytes::operator=(FileBytes&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_size_, other.mapping_size_);
  std::swap(is_mapped_, other.is_mapped_);
  return *this;
}

}  // namespace quest
