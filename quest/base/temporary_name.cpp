#include "quest/base/temporary_name.h"

#include <cerrno>
#include <charconv>
#include <csignal>
#include <fcntl.h>
#include <mutex>
#include <set>
#include <unistd.h>

#include "quest/base/error.h"

namespace quest::internal {

namespace {

struct Claims {
  std::mutex mutex;
  std::set<std::filesystem::path> paths;
  uint64_t count = 0;
};

Claims& claims() {
  static auto* instance = new Claims;
  return *instance;
}

std::filesystem::path key_of(const std::filesystem::path& path) {
  return std::filesystem::absolute(path).lexically_normal();
}

bool parse_number(std::string_view text, uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

bool lives(uint64_t pid) { return kill(static_cast<pid_t>(pid), 0) == 0 || errno != ESRCH; }

}  // namespace

std::filesystem::path claim_temporary(const std::filesystem::path& destination,
                                      std::string_view tag) {
  Claims& all = claims();
  std::filesystem::path path;
  {
    const std::lock_guard lock(all.mutex);
    path = parent_folder(destination) /
           fmt::format("{}.{}-{}-{}", destination.filename().string(), tag, getpid(), all.count++);
    all.paths.insert(key_of(path));
  }
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) {
    release_temporary(path);
    QUEST_THROW(ErrorKind::kIo, "cannot remove the left-over {}: {}", path.string(),
                error.message());
  }
  return path;
}

void release_temporary(const std::filesystem::path& temporary) {
  Claims& all = claims();
  const std::lock_guard lock(all.mutex);
  all.paths.erase(key_of(temporary));
}

std::optional<TemporaryName> parse_temporary(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  const size_t count_dash = name.rfind('-');
  if (count_dash == std::string::npos || count_dash == 0) return std::nullopt;
  const size_t pid_dash = name.rfind('-', count_dash - 1);
  if (pid_dash == std::string::npos || pid_dash < 5) return std::nullopt;
  TemporaryName result;
  const std::string tag = name.substr(pid_dash - 4, 4);
  if (tag != ".tmp" && tag != ".old") return std::nullopt;
  uint64_t pid = 0, count = 0;
  const std::string_view view = name;
  if (!parse_number(view.substr(pid_dash + 1, count_dash - pid_dash - 1), pid) ||
      !parse_number(view.substr(count_dash + 1), count) || pid == 0 || pid > INT32_MAX) {
    return std::nullopt;
  }
  result.destination = name.substr(0, pid_dash - 4);
  result.tag = tag.substr(1);
  if (pid == static_cast<uint64_t>(getpid())) {
    // Containers give the same pid to each start of a program: only what this one claimed is in
    // use.
    Claims& all = claims();
    const std::lock_guard lock(all.mutex);
    result.in_use = all.paths.count(key_of(path)) > 0;
  } else {
    result.in_use = lives(pid);
  }
  return result;
}

void fsync_path(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  QUEST_CHECK(fd >= 0, ErrorKind::kIo, "cannot open {} to flush it: {}", path.string(),
              errno_text(errno));
  const int result = fsync(fd);
  const int reason = errno;
  close(fd);
  // Some file systems cannot fsync a folder and say so with EINVAL.
  QUEST_CHECK(result == 0 || reason == EINVAL, ErrorKind::kIo, "cannot flush {} to the disk: {}",
              path.string(), errno_text(reason));
}

std::filesystem::path parent_folder(const std::filesystem::path& path) {
  const std::filesystem::path parent = path.parent_path();
  return parent.empty() ? std::filesystem::path(".") : parent;
}

}  // namespace quest::internal
