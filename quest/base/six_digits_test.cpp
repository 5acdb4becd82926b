#include "quest/base/six_digits.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace quest {
namespace {

TEST(SixDigits, RoundsToThem) {
  EXPECT_EQ(six_digits(1234567), 1234570);
  EXPECT_EQ(six_digits(-0.123456789), -0.123457);
  EXPECT_EQ(six_digits(0.25), 0.25);
  EXPECT_EQ(six_digits(0), 0);
}

TEST(SixDigits, TakesWhatIsTinyAndWhatIsNotFinite) {
  EXPECT_EQ(six_digits(1.2345678e-310), 1.23457e-310);
  EXPECT_EQ(six_digits(std::numeric_limits<double>::infinity()),
            std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(six_digits(std::nan(""))));
}

}  // namespace
}  // namespace quest
