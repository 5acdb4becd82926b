#include "quest/base/memory_info.h"

#include <filesystem>

#include <gtest/gtest.h>

namespace quest {
namespace {

TEST(ParseMeminfo, ReadsKibibytesAndToleratesStrangeLines) {
  const MemoryInfo info = parse_meminfo(
      "MemTotal:       24576000 kB\nodd\nMemFree: x\nMemAvailable:   20480000 kB\n\n");
  EXPECT_EQ(info.total_bytes, int64_t{24576000} * 1024);
  EXPECT_EQ(info.available_bytes, int64_t{20480000} * 1024);
}

TEST(ParseMeminfo, WhatIsNotSaidIsZero) {
  for (const char* text : {"", "MemFree: 12 kB\n", "MemTotal:\nMemAvailable: ? kB\n"}) {
    EXPECT_EQ(parse_meminfo(text).total_bytes, 0) << text;
    EXPECT_EQ(parse_meminfo(text).available_bytes, 0) << text;
  }
}

TEST(SystemMemory, IsThatOfThisMachine) {
  if (!std::filesystem::exists("/proc/meminfo")) GTEST_SKIP() << "no /proc";
  const MemoryInfo info = system_memory();
  EXPECT_GT(info.available_bytes, 0);
  EXPECT_GE(info.total_bytes, info.available_bytes);
}

}  // namespace
}  // namespace quest
