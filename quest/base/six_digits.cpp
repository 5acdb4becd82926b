#include "quest/base/six_digits.h"

#include <cstdlib>

#include <fmt/format.h>

namespace quest {

// Not std::stod, which throws for what strtod reads as a denormal.
double six_digits(double value) {
  return std::strtod(fmt::format("{:.6g}", value).c_str(), nullptr);
}

}  // namespace quest
