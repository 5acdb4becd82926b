// Tests of the small headers of base: error, log, bfloat16, checksum, file_bytes, cpu_features,
// shutdown, version.
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <limits>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "quest/base/bfloat16.h"
#include "quest/base/checksum.h"
#include "quest/base/cpu_features.h"
#include "quest/base/error.h"
#include "quest/base/file_bytes.h"
#include "quest/base/log.h"
#include "quest/base/shutdown.h"
#include "quest/base/testing.h"
#include "quest/base/thread_pool.h"
#include "quest/base/version.h"

namespace quest {
namespace {

using testing::TemporaryFolder;

TEST(Error, KindsHaveDifferentExitCodes) {
  EXPECT_EQ(exit_code(ErrorKind::kUsage), 2);
  EXPECT_EQ(exit_code(ErrorKind::kData), 3);
  EXPECT_EQ(exit_code(ErrorKind::kIo), 4);
  EXPECT_EQ(exit_code(ErrorKind::kEnvironment), 5);
  EXPECT_EQ(exit_code(ErrorKind::kNumeric), 6);
  EXPECT_EQ(error_kind_name(ErrorKind::kIo), "io");
  EXPECT_QUEST_ERROR(QUEST_CHECK(1 > 2, ErrorKind::kUsage, "bits is {}", 9), ErrorKind::kUsage,
                     "bits is 9");
  EXPECT_EQ(errno_text(ENOENT), "No such file or directory");
}

TEST(ErrorDeathTest, AssertNamesPlaceConditionAndMessage) {
  EXPECT_DEATH(QUEST_ASSERT(1 > 2), "base_test.cpp:.*1 > 2 is false");
  EXPECT_DEATH(QUEST_ASSERT(1 > 2, "n is {}", 5), "n is 5");
}

TEST(Log, WritesToStderrAboveItsLevel) {
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  log::set_level(log::Level::kWarn);
  log::info("not {}", "shown");
  log::warn("shown {}", 1);
  log::set_level(log::Level::kInfo);
  log::info("braces {} stay", "{}");
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("not shown"), std::string::npos);
  EXPECT_NE(text.find("warning: shown 1\n"), std::string::npos) << text;
  EXPECT_NE(text.find("info: braces {} stay\n"), std::string::npos) << text;
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
}

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(bfloat16(1.0f).bits, 0x3f80);
  EXPECT_EQ(round_to_bfloat16(1.0f + 0x1p-8f), 1.0f);                // a tie, to even
  EXPECT_EQ(round_to_bfloat16(1.0f + 3 * 0x1p-8f), 1.0f + 0x1p-6f);  // a tie, to even
  EXPECT_EQ(round_to_bfloat16(1.0f + 0x1p-8f + 0x1p-20f), 1.0f + 0x1p-7f);
  EXPECT_EQ(round_to_bfloat16(std::numeric_limits<float>::max()),
            std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(round_to_bfloat16(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::signbit(round_to_bfloat16(-0.0f)));
}

// The empty input's values are those of the xxHash specification's reference implementation.
TEST(Checksum, KnownValuesAndSensitivity) {
  EXPECT_EQ(checksum64({}), 0x2d06800538d394c2u);
  EXPECT_EQ(checksum128_hex(std::string_view()), "99aa06d3014798d86001c324468d497f");
  EXPECT_NE(checksum128_hex("a"), checksum128_hex("b"));
  const std::string zeros(32, '\0');
  EXPECT_EQ(checksum128_hex(zeros).size(), 32u);
  EXPECT_EQ(checksum128_hex(zeros), checksum128_hex(std::as_bytes(std::span(zeros.data(), 32))));
}

TEST(Checksum, PiecesHashedByOneThreadByManyAndInParts) {
  std::vector<std::byte> data(3 * PiecewiseChecksum::kPiece + 12345);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * i >> 7);
  PiecewiseChecksum one;
  one.update(data);
  const std::string expected = one.hex();

  ThreadPool pool(3);
  PiecewiseChecksum many;
  many.update(data, &pool);
  EXPECT_EQ(many.hex(), expected);

  PiecewiseChecksum parts;
  size_t done = 0;
  for (size_t size = 1; done < data.size(); size = size * 3 + 1) {
    const size_t part = std::min(size, data.size() - done);
    parts.update(std::span(data).subspan(done, part));
    done += part;
  }
  EXPECT_EQ(parts.hex(), expected);

  // The definition: a checksum of the pieces' digests.
  std::string digests;
  for (size_t begin = 0; begin < data.size(); begin += PiecewiseChecksum::kPiece) {
    const size_t size = std::min(PiecewiseChecksum::kPiece, data.size() - begin);
    const std::string hex = checksum128_hex(std::span(data).subspan(begin, size));
    for (size_t i = 0; i < hex.size(); i += 2) {
      digests += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
  }
  EXPECT_EQ(checksum128_hex(digests), expected);

  PiecewiseChecksum split;  // a piece that is ended early is another checksum
  split.update(std::span(data).first(100));
  split.end_piece();
  split.update(std::span(data).subspan(100));
  EXPECT_NE(split.hex(), expected);
  data[2 * PiecewiseChecksum::kPiece] ^= std::byte{1};
  PiecewiseChecksum changed;
  changed.update(data);
  EXPECT_NE(changed.hex(), expected);
}

TEST(FileBytes, MapsMovesAndRefuses) {
  for (const FileAccess access : {FileAccess::kMap, FileAccess::kRead}) {
    const TemporaryFolder folder;
    FileBytes a(folder.write("a", "hello"), access);
    EXPECT_EQ(a.bytes().size(), 5u);
    EXPECT_EQ(static_cast<char>(a.bytes()[4]), 'o');
    FileBytes b(std::move(a));
    EXPECT_EQ(static_cast<char>(b.bytes()[0]), 'h');
    b = FileBytes(folder.write("b", "x"), access);
    EXPECT_EQ(b.bytes().size(), 1u);
    EXPECT_EQ(b.path(), folder / "b");
    EXPECT_TRUE(FileBytes(folder.write("empty", ""), access).bytes().empty());
    EXPECT_QUEST_ERROR(FileBytes(folder / "absent", access), ErrorKind::kIo,
                       "absent: No such file");
    EXPECT_QUEST_ERROR(FileBytes(folder.path(), access), ErrorKind::kIo, "a folder");
    ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
    EXPECT_QUEST_ERROR(FileBytes(folder / "pipe", access), ErrorKind::kIo, "pipe");
  }
}

// Resident pages of a mapping, of those that begin in [begin, end).
int64_t pages_in_memory(const FileBytes& file, size_t begin, size_t end) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident((file.bytes().size() + page - 1) / page);
  EXPECT_EQ(
      mincore(const_cast<std::byte*>(file.bytes().data()), file.bytes().size(), resident.data()),
      0);
  int64_t count = 0;
  for (size_t at = begin; at < end; at += page) count += resident[at / page] & 1;
  return count;
}

TEST(FileBytes, WhatWillBeReadIsFetched) {
  const testing::TemporaryFolder folder;
  constexpr size_t kSize = size_t{32} << 20, kBegin = size_t{20} << 20, kCount = size_t{64} << 10;
  const std::filesystem::path path = folder.write("large", std::string(kSize, 'x'));
  const int fd = open(path.c_str(), O_RDONLY);
  fsync(fd);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);  // where the file system can drop pages
  close(fd);
  const FileBytes file(path);
  const int64_t pages = static_cast<int64_t>(kCount) / sysconf(_SC_PAGESIZE);
  file.will_read(kBegin, kCount);
  for (int i = 0; i < 500 && pages_in_memory(file, kBegin, kBegin + kCount) < pages; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(pages_in_memory(file, kBegin, kBegin + kCount), pages);
  // Beyond the file, or nothing: no harm.
  file.will_read(kSize - 1, kSize);
  file.will_read(kSize, 1);
  file.will_read(0, 0);
  FileBytes(folder.write("empty", "")).will_read(0, 10);
  FileBytes(path, FileAccess::kRead).will_read(0, kSize);
}

TEST(FileBytes, FilesThatDoNotFitIntoMemoryAreMapped) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.write("a", "");
  EXPECT_EQ(fastest_access(folder / "absent"), FileAccess::kMap);
  std::error_code error;
  std::filesystem::resize_file(path, uintmax_t{1} << 42, error);  // 4 TB, none on the disk
  if (error) GTEST_SKIP() << "no file of 4 TB here: " << error.message();
  EXPECT_EQ(fastest_access(path), FileAccess::kMap);
}

TEST(FileBytes, ReadBytesAreAlignedAndStayAsTheyWere) {
  const TemporaryFolder folder;
  std::string text(5'000'001, 'a');
  for (size_t i = 0; i < text.size(); i += 997) text[i] = static_cast<char>('b' + i % 17);
  const FileBytes file(folder.write("a", text), FileAccess::kRead);
  ASSERT_EQ(file.bytes().size(), text.size());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.bytes().data()) % 64, 0u);
  {
    std::fstream other(folder / "a", std::ios::in | std::ios::out | std::ios::binary);
    other << "changed";
  }
  EXPECT_EQ(std::memcmp(file.bytes().data(), text.data(), text.size()), 0);
}

TEST(CpuFeatures, LevelsAreNamedAndOrdered) {
  const auto levels = available_isa_levels();
  ASSERT_FALSE(levels.empty());
  EXPECT_EQ(levels.front(), IsaLevel::kScalar);
  EXPECT_EQ(levels.back(), highest_isa_level());
  EXPECT_LE(isa_level(), highest_isa_level());
  for (const IsaLevel level : levels) EXPECT_EQ(isa_level_from_name(isa_level_name(level)), level);
  EXPECT_QUEST_ERROR(isa_level_from_name("sse9"), ErrorKind::kUsage,
                     "allowed are scalar, avx2, avx512, avx512vnni, amx");
  if (highest_isa_level() < IsaLevel::kAmx) {
    EXPECT_QUEST_ERROR(isa_level_from_name("amx"), ErrorKind::kEnvironment, "amx");
  }
}

TEST(CpuFeatures, AgreeWithTheCompilersOwnDetection) {
  const CpuFeatures& f = cpu_features();
  EXPECT_FALSE(f.model_name.empty());
  EXPECT_GE(f.usable_cores, 1);
#if defined(__x86_64__)
  EXPECT_EQ(f.avx2, __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(f.fma, __builtin_cpu_supports("fma") != 0);
  EXPECT_EQ(f.avx512f, __builtin_cpu_supports("avx512f") != 0);
  EXPECT_EQ(f.avx512bw, __builtin_cpu_supports("avx512bw") != 0);
  EXPECT_EQ(f.avx512vl, __builtin_cpu_supports("avx512vl") != 0);
  EXPECT_EQ(f.avx512dq, __builtin_cpu_supports("avx512dq") != 0);
  EXPECT_EQ(f.avx512vnni, __builtin_cpu_supports("avx512vnni") != 0);
  EXPECT_EQ(f.avx512vbmi, __builtin_cpu_supports("avx512vbmi") != 0);
  EXPECT_EQ(f.avx512bitalg, __builtin_cpu_supports("avx512bitalg") != 0);
  EXPECT_EQ(f.avx512vpopcntdq, __builtin_cpu_supports("avx512vpopcntdq") != 0);
#endif
}

TEST(Shutdown, RemembersTheFirstSignal) {
  install_shutdown_handlers();
  reset_shutdown_signal();
  EXPECT_EQ(shutdown_signal(), 0);
  std::raise(SIGTERM);
  EXPECT_EQ(shutdown_signal(), SIGTERM);
  std::raise(SIGTERM);
  EXPECT_EQ(shutdown_signal(), SIGTERM);
  reset_shutdown_signal();
  std::raise(SIGINT);
  EXPECT_EQ(shutdown_signal(), SIGINT);
  reset_shutdown_signal();
}

TEST(Shutdown, StopsWorkThatAsksAndNamesTheSignal) {
  install_shutdown_handlers();
  reset_shutdown_signal();
  stop_if_asked();
  std::raise(SIGTERM);
  try {
    stop_if_asked();
    ADD_FAILURE() << "not stopped";
  } catch (const StoppedBySignal& stop) {
    EXPECT_EQ(stop.signal_number(), SIGTERM);
    EXPECT_NE(std::string(stop.what()).find("SIGTERM"), std::string::npos);
  }
  reset_shutdown_signal();
}

TEST(ShutdownDeathTest, ASecondInterruptEndsTheProcess) {
  EXPECT_EXIT(
      {
        install_shutdown_handlers();
        std::raise(SIGTERM);
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        std::raise(SIGINT);
        std::exit(0);
      },
      ::testing::ExitedWithCode(130), "");
}

// timeout -s INT: the program and its group get the signal, microseconds apart.
TEST(ShutdownDeathTest, TheSameInterruptTwiceIsOne) {
  EXPECT_EXIT(
      {
        install_shutdown_handlers();
        std::raise(SIGINT);
        std::raise(SIGINT);
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(Version, NamesProgramNumberAndBuild) {
  EXPECT_EQ(version_text().rfind("quest " + version_number() + " (", 0), 0u) << version_text();
  EXPECT_EQ(version_text().back(), ')');
  const std::string number = version_number();
  EXPECT_EQ(std::count(number.begin(), number.end(), '.'), 2) << number;
}

}  // namespace
}  // namespace quest
