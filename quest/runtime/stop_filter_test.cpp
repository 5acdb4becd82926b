#include "quest/runtime/stop_filter.h"

#include <gtest/gtest.h>

namespace quest {
namespace {

// The text in pieces of `size` bytes.
std::string filtered(std::vector<std::string> stops, const std::string& text, size_t size) {
  StopFilter filter(std::move(stops));
  std::string shown;
  for (size_t i = 0; i < text.size(); i += size) shown += filter.push(text.substr(i, size));
  return shown + filter.flush();
}

TEST(StopFilter, ShowsAllBeforeTheFirstStopString) {
  for (const size_t size : {1, 2, 3, 5, 100}) {
    EXPECT_EQ(filtered({}, "a</s>b", size), "a</s>b");
    EXPECT_EQ(filtered({""}, "abc", size), "abc");
    EXPECT_EQ(filtered({"</s>"}, "a</s>b</s>", size), "a");
    EXPECT_EQ(filtered({"</s>"}, "a</s", size), "a</s");
    EXPECT_EQ(filtered({"aab"}, "aaaab", size), "aa");
    EXPECT_EQ(filtered({"xyz", "\nUser:"}, "Hi\nUs\nUser: xyz", size), "Hi\nUs");
    EXPECT_EQ(filtered({"\nUser:", "xyz"}, "Hi xyz\nUser:", size), "Hi ");
    EXPECT_EQ(filtered({"ab", "b"}, "ab", size), "");
  }
}

TEST(StopFilter, HoldsBackOnlyWhatMayBecomeAStopString) {
  StopFilter filter({"</s>", "<|end|>"});
  EXPECT_EQ(filter.push("a<"), "a");
  EXPECT_EQ(filter.push("/t"), "</t");
  EXPECT_EQ(filter.push("x<|"), "x");
  EXPECT_FALSE(filter.stopped());
  EXPECT_EQ(filter.push("end|>rest"), "");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.push("more"), "");
  EXPECT_EQ(filter.flush(), "");
}

}  // namespace
}  // namespace quest
