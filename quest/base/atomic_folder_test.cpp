#include "quest/base/atomic_folder.h"

#include <csignal>
#include <fstream>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "quest/base/atomic_file.h"
#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;

void write_plain(const fs::path& path, std::string_view content) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

int entries_in(const fs::path& folder) {
  return static_cast<int>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

void publish_folder(const fs::path& destination, std::string_view content) {
  AtomicFolder out(destination);
  write_plain(out.path() / "a.txt", content);
  write_plain(out.path() / "sub/b.bin", "bytes");
  out.publish();
}

// The pid of a process that has ended.
pid_t dead_pid() {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
  return child;
}

// Files of this process cannot grow beyond a size, as on a full disk, while this lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &old_);
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  struct rlimit old_;
  void (*old_handler_)(int);
};

TEST(AtomicFolder, NothingUnderTheNameBeforePublish) {
  const TemporaryFolder folder;
  const fs::path destination = folder / "deep/result";
  {
    AtomicFolder out(destination);
    write_plain(out.path() / "a.txt", "x");
    EXPECT_FALSE(fs::exists(destination));
    EXPECT_EQ(out.path().parent_path(), destination.parent_path());
  }
  EXPECT_EQ(entries_in(folder / "deep"), 0);
}

TEST(AtomicFolder, PublishesVerifiesAndReplaces) {
  const TemporaryFolder folder;
  const fs::path destination = folder / "result";
  publish_folder(destination, "one");
  verify_folder(destination);
  EXPECT_EQ(read_file(destination / "a.txt"), "one");
  publish_folder(folder / "result/", "two");
  verify_folder(destination);
  EXPECT_EQ(read_file(destination / "a.txt"), "two");
  EXPECT_EQ(entries_in(folder.path()), 1);
}

TEST(AtomicFolder, ReplacesWithoutExchangeToo) {
  const TemporaryFolder folder;
  publish_folder(folder / "result", "one");
  write_plain(folder / "new/a.txt", "two");
  internal::replace_folder_without_exchange(folder / "new", folder / "result");
  EXPECT_EQ(read_file(folder / "result/a.txt"), "two");
  EXPECT_EQ(entries_in(folder.path()), 1);
  EXPECT_QUEST_ERROR(
      internal::replace_folder_without_exchange(folder / "absent", folder / "result"),
      ErrorKind::kIo, "absent");
  EXPECT_EQ(read_file(folder / "result/a.txt"), "two");
  EXPECT_EQ(entries_in(folder.path()), 1);
}

TEST(AtomicFolder, ReplacementIsNeverSeenMissing) {
  const TemporaryFolder folder;
  const fs::path destination = folder / "result";
  publish_folder(destination, "start");
  std::atomic<bool> stop{false};
  std::atomic<int> missing{0};
  std::thread reader([&] {
    while (!stop) missing += !fs::exists(destination / "a.txt");
  });
  for (int i = 0; i < 30; ++i) publish_folder(destination, std::to_string(i));
  stop = true;
  reader.join();
  EXPECT_EQ(missing, 0) << "renameat2(RENAME_EXCHANGE) does not work on this file system";
  EXPECT_EQ(read_file(destination / "a.txt"), "29");
}

TEST(AtomicFolder, RefusesAFileAtTheDestinationAndSpecialFiles) {
  const TemporaryFolder folder;
  folder.write("result", "a file");
  EXPECT_QUEST_ERROR(publish_folder(folder / "result", "x"), ErrorKind::kIo,
                     "a file has that name");
  EXPECT_EQ(read_file(folder / "result"), "a file");
  AtomicFolder out(folder / "links");
  fs::create_symlink("/etc/passwd", out.path() / "link");
  EXPECT_QUEST_ERROR(out.publish(), ErrorKind::kIo, "neither a regular file nor a folder");
}

TEST(AtomicFolder, ParentThatCannotBeMade) {
  const TemporaryFolder folder;
  folder.write("file", "");
  EXPECT_QUEST_ERROR(AtomicFolder(folder / "file/result"), ErrorKind::kIo, "file");
}

TEST(AtomicFolder, KilledWriterLeavesOnlyAStaleTemporary) {
  const TemporaryFolder folder;
  publish_folder(folder / "result", "good");
  const pid_t child = fork();
  if (child == 0) {
    AtomicFolder out(folder / "result");
    write_plain(out.path() / "a.txt", "half");
    kill(getpid(), SIGKILL);
  }
  waitpid(child, nullptr, 0);
  EXPECT_EQ(entries_in(folder.path()), 2);
  AtomicFolder in_use(folder / "other");
  remove_stale_temporaries(folder.path());
  EXPECT_EQ(entries_in(folder.path()), 2);
  EXPECT_TRUE(fs::exists(in_use.path()));
  verify_folder(folder / "result");
  EXPECT_EQ(read_file(folder / "result/a.txt"), "good");
}

TEST(RemoveStaleTemporaries, TakesOnlyTheDead) {
  const TemporaryFolder folder;
  const pid_t dead = dead_pid();
  folder.write(fmt::format("a.tmp-{}-0/x", dead), "");
  folder.write(fmt::format("b.txt.tmp-{}-12", dead), "");
  folder.write(fmt::format("own.tmp-{}-99999", getpid()), "of an earlier start with the same pid");
  const std::vector<std::string> kept = {
      fmt::format("c.tmp-{}-0", getppid()), "d.tmp-", "e.tmp-1x-0", fmt::format("f.tmp{}-0", dead),
      fmt::format("tmp-{}-0", dead),        "-0-1",   "plain"};
  for (const std::string& name : kept) folder.write(name, "");
  remove_stale_temporaries(folder.path());
  for (const std::string& name : kept) EXPECT_TRUE(fs::exists(folder / name)) << name;
  EXPECT_EQ(entries_in(folder.path()), static_cast<int>(kept.size()));
  remove_stale_temporaries(folder / "absent");
}

TEST(RemoveStaleTemporaries, RestoresAnInterruptedReplacement) {
  const TemporaryFolder folder;
  const pid_t dead = dead_pid();
  folder.write(fmt::format("lost.old-{}-3/a.txt", dead), "old");
  folder.write(fmt::format("done.old-{}-4/a.txt", dead), "old");
  folder.write("done/a.txt", "new");
  remove_stale_temporaries(folder.path());
  EXPECT_EQ(read_file(folder / "lost/a.txt"), "old");
  EXPECT_EQ(read_file(folder / "done/a.txt"), "new");
  EXPECT_EQ(entries_in(folder.path()), 2);
}

TEST(VerifyFolder, FindsEveryFlippedBitAndTruncation) {
  const TemporaryFolder folder;
  publish_folder(folder / "result", "some content");
  for (const std::string& name : {std::string("a.txt"), std::string("sub/b.bin")}) {
    const fs::path file = folder / "result" / name;
    const std::string whole = read_file(file);
    for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
      std::string flipped = whole;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
      write_plain(file, flipped);
      EXPECT_QUEST_ERROR(verify_folder(folder / "result"), ErrorKind::kData, name);
    }
    for (size_t size = 0; size < whole.size(); ++size) {
      write_plain(file, whole.substr(0, size));
      EXPECT_QUEST_ERROR(verify_folder(folder / "result"), ErrorKind::kData, name);
    }
    write_plain(file, whole);
    verify_folder(folder / "result");
  }
  fs::remove(folder / "result/a.txt");
  EXPECT_QUEST_ERROR(verify_folder(folder / "result"), ErrorKind::kData, "a.txt is missing");
}

TEST(VerifyFolder, DistrustsTheListItself) {
  const TemporaryFolder folder;
  publish_folder(folder / "result", "content");
  const fs::path list = folder / "result/checksums.json";
  const std::string whole = read_file(list);
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    write_plain(list, flipped);
    try {
      verify_folder(folder / "result");
      // Nothing but white space may change without being noticed.
      EXPECT_TRUE(std::isspace(static_cast<unsigned char>(whole[bit / 8]))) << whole[bit / 8];
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData) << error.what();
    }
  }
  write_plain(list, R"({"files": {"../x": {"size": 0, "xxh3_128": ""}}})");
  EXPECT_QUEST_ERROR(verify_folder(folder / "result"), ErrorKind::kData, "outside");
  write_plain(list, R"({"files": {"/etc/passwd": {"size": 0, "xxh3_128": ""}}})");
  EXPECT_QUEST_ERROR(verify_folder(folder / "result"), ErrorKind::kData, "outside");
  write_plain(list, "[]");
  EXPECT_QUEST_ERROR(verify_folder(folder / "result"), ErrorKind::kData, "files");
  fs::remove(list);
  EXPECT_QUEST_ERROR(verify_folder(folder / "result"), ErrorKind::kData, "checksums.json");
  EXPECT_QUEST_ERROR(verify_folder(folder / "absent"), ErrorKind::kIo, "absent");
}

TEST(AtomicFile, WritesAcrossTheBufferAndOverwrites) {
  const TemporaryFolder folder;
  std::string expected;
  {
    AtomicFile out(folder / "f");
    for (const size_t size :
         {size_t{3}, size_t{1} << 20, size_t{5}, size_t{3} << 20, size_t{100}}) {
      const std::string part(size, static_cast<char>('a' + size % 23));
      out.write(part);
      expected += part;
      EXPECT_EQ(out.size(), static_cast<int64_t>(expected.size()));
    }
    out.overwrite(1, std::as_bytes(std::span("XY", 2)));
    expected.replace(1, 2, "XY");
    EXPECT_QUEST_ERROR(out.overwrite(out.size() - 1, std::as_bytes(std::span("XY", 2))),
                       ErrorKind::kUsage, "overwrite");
    EXPECT_FALSE(fs::exists(folder / "f"));
    out.publish();
  }
  EXPECT_TRUE(read_file(folder / "f") == expected);
  EXPECT_EQ(entries_in(folder.path()), 1);
}

TEST(AtomicFile, AWriteThatFailsLeavesTheOldFile) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "f", "old");
  {
    const FileSizeLimit limit(1000);
    EXPECT_QUEST_ERROR(write_file_atomically(folder / "f", std::string(5000, 'x')), ErrorKind::kIo,
                       "File too large");
  }
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(entries_in(folder.path()), 1);
  write_file_atomically(folder / "f", "new");
  EXPECT_EQ(read_file(folder / "f"), "new");
}

TEST(AtomicFile, AFullDiskLeavesTheOldFileAndFolder) {
  const TemporaryFolder folder;
  const fs::path disk = folder / "disk";
  fs::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=256k") != 0) {
    GTEST_SKIP() << "mounting a small tmpfs needs root: " << errno_text(errno);
  }
  publish_folder(disk / "checkpoint", "good");
  write_file_atomically(disk / "f", "old");
  EXPECT_QUEST_ERROR(write_file_atomically(disk / "f", std::string(1 << 20, 'x')), ErrorKind::kIo,
                     "No space left on device");
  EXPECT_EQ(read_file(disk / "f"), "old");
  try {
    AtomicFolder out(disk / "checkpoint");
    write_file_atomically(out.path() / "model", std::string(1 << 20, 'x'));
    ADD_FAILURE() << "the disk was not full";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
  }
  verify_folder(disk / "checkpoint");
  EXPECT_EQ(entries_in(disk), 2);
  umount2(disk.c_str(), MNT_DETACH);
}

TEST(AtomicFile, RefusesFoldersAndMissingParents) {
  const TemporaryFolder folder;
  EXPECT_QUEST_ERROR(write_file_atomically(folder.path(), "x"), ErrorKind::kIo, "folder");
  EXPECT_QUEST_ERROR(write_file_atomically(folder / "no/f", "x"), ErrorKind::kIo, "No such file");
}

// Renaming onto /dev/null would replace the machine's device by a file.
TEST(AtomicFile, RefusesPipesAndDevices) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  fs::create_symlink(folder / "pipe", folder / "link");
  for (const char* name : {"pipe", "link"}) {
    EXPECT_QUEST_ERROR(write_file_atomically(folder / name, "x"), ErrorKind::kIo, "device or pipe");
  }
  EXPECT_TRUE(fs::is_fifo(folder / "pipe"));
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(entries_in(folder.path()), 2);
}

TEST(ReadFile, ReadsAnySizeAndNamesWhatItCannotRead) {
  const TemporaryFolder folder;
  for (const size_t size : {0, 1, 65535, 65536, 65537, 1000000}) {
    const std::string content(size, 'q');
    EXPECT_TRUE(read_file(folder.write("f", content)) == content) << size;
  }
  EXPECT_FALSE(read_file("/proc/self/status").empty());
  EXPECT_QUEST_ERROR(read_file(folder / "absent"), ErrorKind::kIo, "absent");
  EXPECT_QUEST_ERROR(read_file(folder.path()), ErrorKind::kIo, "cannot read");
}

}  // namespace
}  // namespace quest
