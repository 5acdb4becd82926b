#include "quest/cli_run/whole_numbers.h"

#include <gtest/gtest.h>

namespace quest::cli {
namespace {

TEST(WholeNumberFrom, TakesTheRangeAndNamesItShortly) {
  const CLI::Validator check = whole_number_from(0);
  for (const char* good : {"0", "7", "9223372036854775807"}) {
    std::string text = good;
    EXPECT_EQ(check(text), "") << good;
  }
  for (const char* bad : {"-1", "x", "", "99999999999999999999"}) {
    std::string text = bad;
    const std::string message = check(text);
    EXPECT_NE(message, "") << bad;
    EXPECT_LT(message.size(), 80u) << message;
  }
  std::string zero = "0";
  EXPECT_NE(whole_number_from(1)(zero), "");
}

}  // namespace
}  // namespace quest::cli
