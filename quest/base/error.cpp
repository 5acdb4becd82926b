#include "quest/base/error.h"

#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace quest {

int exit_code(ErrorKind kind) { return 2 + static_cast<int>(kind); }

std::string_view error_kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return "usage";
    case ErrorKind::kData:
      return "data";
    case ErrorKind::kIo:
      return "io";
    case ErrorKind::kEnvironment:
      return "environment";
    case ErrorKind::kNumeric:
      return "numeric";
  }
  return "unknown";
}

std::string errno_text(int error_number) { return std::generic_category().message(error_number); }

void assert_failed(const char* condition, const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "quest: internal error at %s:%d: %s is false%s%s\n", file, line, condition,
               message.empty() ? "" : ": ", message.c_str());
  std::abort();
}

}  // namespace quest
