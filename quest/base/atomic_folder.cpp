#include "quest/base/atomic_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

#include "quest/base/atomic_file.h"
#include "quest/base/checksum.h"
#include "quest/base/error.h"
#include "quest/base/file_bytes.h"
#include "quest/base/json_util.h"
#include "quest/base/log.h"
#include "quest/base/temporary_name.h"

namespace quest {

namespace fs = std::filesystem;

namespace {

constexpr const char* kChecksumsName = "checksums.json";

void rename_or_throw(const fs::path& from, const fs::path& to) {
  QUEST_CHECK(std::rename(from.c_str(), to.c_str()) == 0, ErrorKind::kIo,
              "cannot rename {} to {}: {}", from.string(), to.string(), errno_text(errno));
}

// Swaps two names in one step; false where the kernel or the file system cannot.
bool exchange_names(const fs::path& a, const fs::path& b) {
#if defined(SYS_renameat2)
  constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE
  if (syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), kExchange) == 0) return true;
  QUEST_CHECK(errno == EINVAL || errno == ENOSYS || errno == EPERM, ErrorKind::kIo,
              "cannot exchange {} and {}: {}", a.string(), b.string(), errno_text(errno));
#endif
  return false;
}

struct Listing {
  std::vector<fs::path> files;    // relative, sorted
  std::vector<fs::path> folders;  // absolute, the deepest first
};

Listing list_tree(const fs::path& root) {
  Listing listing;
  listing.folders.push_back(root);
  try {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
      if (entry.symlink_status().type() == fs::file_type::directory) {
        listing.folders.push_back(entry.path());
      } else {
        QUEST_CHECK(entry.symlink_status().type() == fs::file_type::regular, ErrorKind::kIo,
                    "cannot publish {}: it is neither a regular file nor a folder",
                    entry.path().string());
        listing.files.push_back(entry.path().lexically_relative(root));
      }
    }
  } catch (const fs::filesystem_error& error) {
    QUEST_THROW(ErrorKind::kIo, "cannot list {}: {}", root.string(), error.code().message());
  }
  std::sort(listing.files.begin(), listing.files.end());
  std::reverse(listing.folders.begin(), listing.folders.end());
  return listing;
}

// checksums.json: {"files": {"model.safetensors": {"size": 12, "xxh3_128": "<32 digits>"}, ...}}
void write_checksums(const fs::path& folder, const Listing& listing) {
  Json files = Json::object();
  for (const fs::path& file : listing.files) {
    if (file == kChecksumsName) continue;
    const FileBytes content(folder / file);
    files[file.generic_string()] = {{"size", content.bytes().size()},
                                    {"xxh3_128", checksum128_hex(content.bytes())}};
  }
  const Json document = {{"files", std::move(files)}};
  // The replacing handler: a file name need not be UTF-8, and then cannot be verified, only named.
  write_file_atomically(folder / kChecksumsName,
                        document.dump(1, ' ', true, Json::error_handler_t::replace) + "\n");
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) log::warn("cannot remove {}: {}", path.string(), error.message());
}

}  // namespace

AtomicFolder::AtomicFolder(fs::path destination) : destination_(std::move(destination)) {
  // "a/b/" and "a/b" are the same folder, but only the second has a last component to build on.
  if (!destination_.has_filename()) destination_ = destination_.parent_path();
  QUEST_CHECK(destination_.has_filename(), ErrorKind::kIo, "cannot write a folder named '{}'",
              destination_.string());
  std::error_code error;
  fs::create_directories(internal::parent_folder(destination_), error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot create the folder {}: {}",
              internal::parent_folder(destination_).string(), error.message());
  temporary_ = internal::claim_temporary(destination_, "tmp");
  fs::create_directory(temporary_, error);
  if (error) {
    internal::release_temporary(temporary_);
    QUEST_THROW(ErrorKind::kIo, "cannot create the folder {}: {}", temporary_.string(),
                error.message());
  }
}

AtomicFolder::~AtomicFolder() {
  if (!published_) {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
  }
  internal::release_temporary(temporary_);
}

void AtomicFolder::publish() {
  QUEST_ASSERT(!published_, "published twice");
  write_checksums(temporary_, list_tree(temporary_));
  const Listing listing = list_tree(temporary_);
  for (const fs::path& file : listing.files) internal::fsync_path(temporary_ / file);
  for (const fs::path& folder : listing.folders) internal::fsync_path(folder);

  std::error_code ignored;
  const fs::file_status old = fs::status(destination_, ignored);
  QUEST_CHECK(!fs::exists(old) || fs::is_directory(old), ErrorKind::kIo,
              "cannot publish the folder {}: a file has that name", destination_.string());
  if (!fs::exists(old)) {
    rename_or_throw(temporary_, destination_);
  } else if (exchange_names(temporary_, destination_)) {
    remove_tree(temporary_);  // now the old one
  } else {
    internal::replace_folder_without_exchange(temporary_, destination_);
  }
  published_ = true;
  internal::fsync_path(internal::parent_folder(destination_));
}

void internal::replace_folder_without_exchange(const fs::path& folder,
                                               const fs::path& destination) {
  const fs::path old = claim_temporary(destination, "old");
  rename_or_throw(destination, old);
  if (std::rename(folder.c_str(), destination.c_str()) != 0) {
    const int reason = errno;
    rename_or_throw(old, destination);
    release_temporary(old);
    QUEST_THROW(ErrorKind::kIo, "cannot rename {} to {}: {}", folder.string(), destination.string(),
                errno_text(reason));
  }
  remove_tree(old);
  release_temporary(old);
}

void remove_stale_temporaries(const fs::path& parent) {
  std::error_code error;
  if (!fs::exists(parent, error)) return;
  std::vector<fs::path> entries;
  try {
    for (const fs::directory_entry& entry : fs::directory_iterator(parent)) {
      entries.push_back(entry.path());
    }
  } catch (const fs::filesystem_error& failure) {
    QUEST_THROW(ErrorKind::kIo, "cannot list {}: {}", parent.string(), failure.code().message());
  }
  for (const fs::path& path : entries) {
    const auto name = internal::parse_temporary(path);
    if (!name.has_value() || name->in_use) continue;
    const fs::path destination = parent / name->destination;
    if (name->tag == "old" && !fs::exists(fs::symlink_status(destination, error))) {
      rename_or_throw(path, destination);
      log::warn("restored {}: its replacement was interrupted", destination.string());
      continue;
    }
    fs::remove_all(path, error);
    QUEST_CHECK(!error, ErrorKind::kIo, "cannot remove the left-over {}: {}", path.string(),
                error.message());
  }
}

void verify_folder(const fs::path& folder) {
  std::error_code error;
  QUEST_CHECK(fs::is_directory(folder, error), ErrorKind::kIo, "{} is not a folder",
              folder.string());
  const fs::path list = folder / kChecksumsName;
  QUEST_CHECK(fs::is_regular_file(list, error), ErrorKind::kData,
              "{} has no {}: it was not published completely", folder.string(), kChecksumsName);
  const Json document = read_json(list);
  QUEST_CHECK(document.is_object() && document.contains("files") && document["files"].is_object(),
              ErrorKind::kData, "{}: expected an object \"files\"", list.string());
  for (const auto& [name, entry] : document["files"].items()) {
    const fs::path relative(name);
    bool inside = !relative.empty() && relative.is_relative();
    for (const fs::path& part : relative) inside = inside && part != "..";
    QUEST_CHECK(inside, ErrorKind::kData, "{}: \"{}\" lies outside the folder", list.string(),
                name);

    const std::string where = list.string() + ": " + name;
    const auto size = json_get<uint64_t>(entry, "size", where);
    const auto checksum = json_get<std::string>(entry, "xxh3_128", where);
    const fs::path path = folder / relative;
    QUEST_CHECK(fs::is_regular_file(path, error), ErrorKind::kData, "{} is missing", path.string());
    const FileBytes content(path);
    QUEST_CHECK(content.bytes().size() == size, ErrorKind::kData,
                "{} is damaged: it has {} bytes, {} says {}", path.string(), content.bytes().size(),
                kChecksumsName, size);
    const std::string found = checksum128_hex(content.bytes());
    QUEST_CHECK(found == checksum, ErrorKind::kData,
                "{} is damaged: its checksum is {}, {} says {}", path.string(), found,
                kChecksumsName, checksum);
  }
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.publish();
}

std::string read_file(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  QUEST_CHECK(fd >= 0, ErrorKind::kIo, "cannot open {}: {}", path.string(), errno_text(errno));
  std::string content;
  size_t used = 0;
  while (true) {
    // Read until the end rather than to the size of stat(): pipes and /proc have none.
    content.resize(std::max<size_t>(used * 2, 65536));
    const ssize_t got = read(fd, content.data() + used, content.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int reason = errno;
      close(fd);
      QUEST_THROW(ErrorKind::kIo, "cannot read {}: {}", path.string(), errno_text(reason));
    }
    if (got == 0) break;
    used += static_cast<size_t>(got);
  }
  close(fd);
  content.resize(used);
  return content;
}

}  // namespace quest
