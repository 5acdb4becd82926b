// One libFuzzer program for each entry point: QUEST_FUZZ_TARGET is its function.
#include "fuzz/entry_points.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  quest::fuzz::QUEST_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}
