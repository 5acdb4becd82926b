// Numbers for files that people read.
#pragma once

namespace quest {

// The nearest number of six significant digits, so that what is written stays short.
double six_digits(double value);

}  // namespace quest
