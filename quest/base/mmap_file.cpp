#include "quest/base/mmap_file.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "quest/base/error.h"

namespace quest {

MmapFile::MmapFile(const std::filesystem::path& path) : path_(path) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer before it is refused below.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  QUEST_CHECK(fd >= 0, ErrorKind::kIo, "cannot open {}: {}", path.string(), errno_text(errno));
  struct stat status;
  if (fstat(fd, &status) != 0) {
    const int reason = errno;
    close(fd);
    QUEST_THROW(ErrorKind::kIo, "cannot examine {}: {}", path.string(), errno_text(reason));
  }
  if (!S_ISREG(status.st_mode)) {
    close(fd);
    QUEST_THROW(ErrorKind::kIo, "cannot map {}: it is {}, not a regular file", path.string(),
                S_ISDIR(status.st_mode) ? "a folder" : "a device, pipe or socket");
  }
  size_ = static_cast<size_t>(status.st_size);
  if (size_ > 0) {
    void* address = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) {
      const int reason = errno;
      close(fd);
      QUEST_THROW(ErrorKind::kIo, "cannot map {} ({} bytes): {}", path.string(), size_,
                  errno_text(reason));
    }
    data_ = static_cast<const std::byte*>(address);
  }
  close(fd);
}

MmapFile::~MmapFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

MmapFile::MmapFile(MmapFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MmapFile& MmapFile::operator=(MmapFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace quest
