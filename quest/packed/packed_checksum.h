// The checksum of a packed model.safetensors, which stands in the file itself.
//
// A PiecewiseChecksum (quest/base/checksum.h) of the header (its 8 length bytes and its text, with
// the 32 digits of the checksum as zeros), then of the tensors' bytes, whose pieces begin at the
// first of them.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace quest {

class ThreadPool;

inline constexpr const char* kPackedChecksumKey = "checksum";
inline constexpr size_t kChecksumDigits = 32;

// Where the digits stand in a header that claims `checksum`. Throws kData (naming `file`) if it is
// no 32 digits or does not stand there once.
size_t find_checksum_digits(std::span<const std::byte> header, const std::string& checksum,
                            const std::string& file);
// file_bytes: the whole file, whose header takes header_bytes.
std::string packed_checksum(std::span<const std::byte> file_bytes, size_t header_bytes,
                            size_t digits_at, ThreadPool* pool);

}  // namespace quest
