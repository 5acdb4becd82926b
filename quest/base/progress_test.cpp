#include "quest/base/progress.h"

#include <string>

#include <gtest/gtest.h>

namespace quest {
namespace {

TEST(FormatQuantity, ShowsThreeDigits) {
  EXPECT_EQ(format_quantity(0, "B"), "0 B");
  EXPECT_EQ(format_quantity(4.41e6, "B"), "4.41 MB");
  EXPECT_EQ(format_quantity(12.34e6, "B/s"), "12.3 MB/s");
  EXPECT_EQ(format_quantity(1200, "tokens"), "1.2k tokens");
  EXPECT_EQ(format_quantity(999, "tokens"), "999 tokens");
  EXPECT_EQ(format_quantity(999.6, "tokens"), "1k tokens");
  EXPECT_EQ(format_quantity(999600, "B"), "1 MB");
  EXPECT_EQ(format_quantity(0.00123, "s"), "0.00123 s");
  EXPECT_EQ(format_quantity(-1500, "B"), "-1.5 kB");
  EXPECT_EQ(format_quantity(2.5e18, ""), "2500P");
  EXPECT_EQ(format_quantity(3e12, "Batches"), "3T Batches");
}

TEST(FormatCount, OneIsSingular) {
  EXPECT_EQ(format_count(0, "file"), "0 files");
  EXPECT_EQ(format_count(1, "file"), "1 file");
  EXPECT_EQ(format_count(2, "input file"), "2 input files");
  EXPECT_EQ(format_count(31102, "document"), "31102 documents");
}

TEST(FormatDuration, HoursMinutesSeconds) {
  EXPECT_EQ(format_duration(0), "0:00:00");
  EXPECT_EQ(format_duration(67.4), "0:01:07");
  EXPECT_EQ(format_duration(59.6), "0:01:00");
  EXPECT_EQ(format_duration(100 * 3600 + 61), "100:01:01");
  EXPECT_EQ(format_duration(-1), "-:--:--");
  EXPECT_EQ(format_duration(1e300), "-:--:--");
  EXPECT_EQ(format_duration(0.0 / 0.0 * 0), "-:--:--");
}

TEST(FormatProgress, LineOfATerminal) {
  EXPECT_EQ(format_progress({.title = "tokenizing",
                             .done = 1900000,
                             .total = 4400000,
                             .unit = "B",
                             .seconds = 1,
                             .fields = {"loss 3"}},
                            76),
            "tokenizing  43 % [#####        ]  1.9/4.4 MB  1.9 MB/s  ETA 0:00:01  loss 3");
}

TEST(FormatProgress, LineOfALogHasNoBar) {
  EXPECT_EQ(format_progress({.title = "steps",
                             .done = 50,
                             .total = 200,
                             .unit = "steps",
                             .seconds = 10,
                             .with_bar = false},
                            80),
            "steps  25 %  50/200 steps  5 steps/s  ETA 0:00:30");
}

TEST(FormatProgress, StepsAreCountedAndManyTokensScaled) {
  EXPECT_EQ(format_progress({.done = 91, .total = 2000, .unit = "steps", .with_bar = false}, 80),
            "   4 %  91/2000 steps  0 steps/s  ETA -:--:--");
  EXPECT_EQ(
      format_progress({.done = 91000, .total = 2000000, .unit = "tokens", .with_bar = false}, 80),
      "   4 %  0.091/2M tokens  0 tokens/s  ETA -:--:--");
}

TEST(FormatProgress, UnknownTotalNothingDoneAndTheEnd) {
  EXPECT_EQ(format_progress({.title = "read", .done = 2000, .unit = "B", .seconds = 2}, 80),
            "read  2 kB  1 kB/s");
  EXPECT_EQ(format_progress({.title = "read", .total = 10, .unit = "B", .with_bar = false}, 80),
            "read   0 %  0/10 B  0 B/s  ETA -:--:--");
  EXPECT_EQ(format_progress({.title = "read",
                             .done = 10,
                             .total = 10,
                             .unit = "B",
                             .seconds = 5,
                             .final_line = true,
                             .with_bar = false},
                            80),
            "read 100 %  10/10 B  2 B/s  in 0:00:05");
}

TEST(FormatProgress, FitsTheWidthAndNeverShowsMoreThanAll) {
  for (int width = 40; width < 200; ++width) {
    const std::string line =
        format_progress({.title = "t", .done = 30, .total = 20, .unit = "B", .seconds = 3}, width);
    EXPECT_LE(line.size(), static_cast<size_t>(width)) << line;
    EXPECT_NE(line.find("t 100 %"), std::string::npos);
    EXPECT_NE(line.find("ETA 0:00:00"), std::string::npos);
  }
  // No room: the bar goes, then the rate, the time, the amount.
  const auto at = [](int width) {
    return format_progress(
        {.title = "t", .done = 1, .total = 2, .unit = "B", .seconds = 1, .with_bar = width == 38},
        width);
  };
  EXPECT_EQ(at(38), "t  50 %  1/2 B  1 B/s  ETA 0:00:01");
  EXPECT_EQ(at(34), "t  50 %  1/2 B  1 B/s  ETA 0:00:01");
  EXPECT_EQ(at(33), "t  50 %  1/2 B  ETA 0:00:01");
  EXPECT_EQ(at(26), "t  50 %  1/2 B");
  EXPECT_EQ(at(13), "t  50 %");
  EXPECT_EQ(at(5), "t  50 %");
}

// What training shows on terminals of 60, 80 and 120 columns, and in a log.
TEST(FormatProgress, FieldsThatDoNotFitAreLeftOutWhole) {
  ProgressLine line{
      .title = "training",
      .done = 75,
      .total = 150,
      .unit = "steps",
      .seconds = 0.51,
      .fields = {"loss 2.8405", "9.41k tokens/s", "lr 0.0112", "grad norm 1.23", "MFU 0.1 %"}};
  EXPECT_EQ(format_progress(line, 59), "training  50 %  75/150 steps  ETA 0:00:01  loss 2.8405");
  EXPECT_EQ(format_progress(line, 79),
            "training  50 %  75/150 steps  ETA 0:00:01  loss 2.8405  9.41k tokens/s");
  EXPECT_EQ(format_progress(line, 119),
            "training  50 %  75/150 steps  ETA 0:00:01  loss 2.8405  9.41k tokens/s  "
            "lr 0.0112  grad norm 1.23  MFU 0.1 %");
  EXPECT_EQ(format_progress(line, 121),
            "training  50 %  75/150 steps  147 steps/s  ETA 0:00:01  loss 2.8405  9.41k tokens/s  "
            "lr 0.0112  grad norm 1.23  MFU 0.1 %");
  // Every part of any shorter line is one of the whole line's, and they come in its order.
  line.with_bar = false;
  std::vector<std::string> order = {"75/150 steps", "ETA 0:00:01"};
  order.insert(order.end(), line.fields.begin(), line.fields.end());
  for (int width = 14; width < 121; ++width) {
    std::string expected = "training  50 %";
    for (const std::string& part : order) {
      if (expected.size() + 2 + part.size() > static_cast<size_t>(width)) break;
      expected += "  " + part;
    }
    EXPECT_EQ(format_progress(line, width), expected) << width;
  }
}

TEST(FormatProgress, WhatWasDoneBeforeIsDoneButNotTimed) {
  EXPECT_EQ(format_progress({.title = "training",
                             .done = 150,
                             .total = 200,
                             .unit = "steps",
                             .seconds = 10,
                             .first = 100,
                             .with_bar = false},
                            80),
            "training  75 %  150/200 steps  5 steps/s  ETA 0:00:10");
}

// The test's stderr is captured into a file: no terminal.
TEST(ProgressBar, WritesPlainLinesToALog) {
  ::testing::internal::CaptureStderr();
  {
    ProgressBar bar("work", 4, "items", 0);
    bar.update(1);
    bar.update(2, {"loss 2"});
    bar.finish({"done"});
    bar.update(3);
    bar.finish();
  }
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 3) << log;
  EXPECT_EQ(log.find('\r'), std::string::npos);
  EXPECT_EQ(log.find('\x1b'), std::string::npos);
  EXPECT_NE(log.find("work  25 %  1/4 items"), std::string::npos) << log;
  EXPECT_NE(log.find("loss 2"), std::string::npos) << log;
  EXPECT_NE(log.find("done\n"), std::string::npos) << log;
}

TEST(ProgressBar, IsQuietBetweenIntervals) {
  ::testing::internal::CaptureStderr();
  {
    ProgressBar bar("work", 1000, "items", 3600);
    for (int i = 0; i < 1000; ++i) bar.update(i);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace quest
