#include "quest/base/atomic_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include "quest/base/error.h"
#include "quest/base/temporary_name.h"

namespace quest {

namespace {

constexpr size_t kBufferSize = size_t{1} << 20;

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path destination) : destination_(std::move(destination)) {
  std::error_code ignored;
  const auto there = std::filesystem::status(destination_, ignored);
  QUEST_CHECK(destination_.has_filename() && !is_directory(there), ErrorKind::kIo,
              "cannot write {}: it names a folder", destination_.string());
  QUEST_CHECK(!is_other(there), ErrorKind::kIo,
              "cannot write {}: it is a device or pipe, not a regular file; choose another place",
              destination_.string());
  buffer_.reserve(kBufferSize);
  temporary_ = internal::claim_temporary(destination_, "tmp");
  fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ < 0) {
    const int reason = errno;
    internal::release_temporary(temporary_);
    QUEST_THROW(ErrorKind::kIo, "cannot write {}: cannot create a file in {}: {}",
                destination_.string(), internal::parent_folder(destination_).string(),
                errno_text(reason));
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) {
    unlink(temporary_.c_str());
    internal::release_temporary(temporary_);
  }
}

void AtomicFile::write_fully(std::span<const std::byte> bytes, int64_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    QUEST_CHECK(written > 0, ErrorKind::kIo, "cannot write {} after {} bytes: {}",
                destination_.string(), offset, errno_text(written < 0 ? errno : ENOSPC));
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

void AtomicFile::flush() {
  write_fully(buffer_, flushed_);
  flushed_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  QUEST_ASSERT(fd_ >= 0, "write after publish");
  if (bytes.empty()) return;
  if (buffer_.size() + bytes.size() > kBufferSize) flush();
  if (bytes.size() >= kBufferSize) {
    write_fully(bytes, flushed_);
    flushed_ += static_cast<int64_t>(bytes.size());
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  size_ += static_cast<int64_t>(bytes.size());
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span<const char>(text.data(), text.size())));
}

void AtomicFile::overwrite(int64_t offset, std::span<const std::byte> bytes) {
  QUEST_ASSERT(fd_ >= 0, "overwrite after publish");
  QUEST_CHECK(
      offset >= 0 && offset <= size_ && static_cast<int64_t>(bytes.size()) <= size_ - offset,
      ErrorKind::kUsage, "cannot overwrite {} bytes at {} of {}: it has {} bytes", bytes.size(),
      offset, destination_.string(), size_);
  flush();
  write_fully(bytes, offset);
}

void AtomicFile::publish() {
  QUEST_ASSERT(fd_ >= 0, "published twice");
  flush();
  QUEST_CHECK(fsync(fd_) == 0, ErrorKind::kIo, "cannot flush {} to the disk: {}",
              destination_.string(), errno_text(errno));
  const int closed = close(fd_);
  fd_ = -1;
  QUEST_CHECK(closed == 0, ErrorKind::kIo, "cannot close {}: {}", destination_.string(),
              errno_text(errno));
  QUEST_CHECK(std::rename(temporary_.c_str(), destination_.c_str()) == 0, ErrorKind::kIo,
              "cannot rename {} to {}: {}", temporary_.string(), destination_.string(),
              errno_text(errno));
  internal::release_temporary(temporary_);
  temporary_.clear();
  internal::fsync_path(internal::parent_folder(destination_));
}

}  // namespace quest
