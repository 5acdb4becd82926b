// Errors of the whole program.
//
// Two kinds (see ARCHITECTURE.md):
//  * bad input or environment: throw quest::Error (use QUEST_CHECK or QUEST_THROW).
//    One catch in the programs' main prints one line and exits with exit_code(kind).
//    Messages say what was wrong, with the value,
//    and what to do about it.
//  * our own bug: QUEST_ASSERT prints the place and aborts.
//
//   QUEST_CHECK(bits >= 1 && bits <= 8, ErrorKind::kUsage, "bits is {}, allowed are 1 to 8", bits);
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace quest {

enum class ErrorKind {
  kUsage,        // wrong flag, setting or combination of settings
  kData,         // a file's or a message's content is not what it must be
  kIo,           // the operating system refused: missing file, full disk, no permission
  kEnvironment,  // a library, device or instruction set that was asked for is missing
  kNumeric,      // a non-finite value where training or quantization cannot go on
};

// The exit code of a program that ends with an error of this kind (2, 3, 4, 5, 6).
int exit_code(ErrorKind kind);
std::string_view error_kind_name(ErrorKind kind);

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// "…: No such file or directory" for an errno value; thread safe.
std::string errno_text(int error_number);

[[noreturn]] void assert_failed(const char* condition, const char* file, int line,
                                const std::string& message);

}  // namespace quest

#define QUEST_THROW(kind, ...) throw ::quest::Error((kind), ::fmt::format(__VA_ARGS__))

#define QUEST_CHECK(condition, kind, ...)                       \
  do {                                                          \
    if (!(condition)) [[unlikely]] {                            \
      throw ::quest::Error((kind), ::fmt::format(__VA_ARGS__)); \
    }                                                           \
  } while (false)

#define QUEST_ASSERT(condition, ...)                                                         \
  do {                                                                                       \
    if (!(condition)) [[unlikely]] {                                                         \
      ::quest::assert_failed(#condition, __FILE__, __LINE__, ::fmt::format("" __VA_ARGS__)); \
    }                                                                                        \
  } while (false)
