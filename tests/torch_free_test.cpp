// A program of all torch-free rooms needs no library of torch or CUDA: this one is linked with
// every object of those rooms, and looks at what the loader brought in.
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace quest {
namespace {

TEST(TorchFree, NoTorchLibraryIsMapped) {
  std::ifstream maps("/proc/self/maps");
  if (!maps) GTEST_SKIP() << "/proc/self/maps cannot be read on this system";
  int libraries = 0;
  for (std::string line; std::getline(maps, line);) {
    libraries += line.find(".so") != std::string::npos;
    for (const char* name : {"libtorch", "libc10", "libcudart", "libcaffe2"}) {
      EXPECT_EQ(line.find(name), std::string::npos) << line;
    }
  }
  EXPECT_GT(libraries, 0);
}

}  // namespace
}  // namespace quest
