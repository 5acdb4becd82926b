#include "quest/quant/golden.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

TEST(Golden, Try) {
  int n = 0;
  for (const auto& c : quest::run_quantizer_golden(QUEST_SOURCE_DIR "/tests/golden")) {
    fmt::print("{} {:.2e} ties {} of {} status {} {}\n", c.name, c.max_deviation, c.ties, c.values,
               int(c.status), c.note);
    n++;
  }
}
