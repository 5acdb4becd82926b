#include "quest/packed/packed_checksum.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "quest/base/checksum.h"
#include "quest/base/error.h"

namespace quest {

size_t find_checksum_digits(std::span<const std::byte> header, const std::string& checksum,
                            const std::string& file) {
  const bool is_hex = checksum.size() == kChecksumDigits &&
                      std::all_of(checksum.begin(), checksum.end(), [](char c) {
                        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                      });
  QUEST_CHECK(is_hex, ErrorKind::kData, "{}: the checksum in its metadata is no {} digits", file,
              kChecksumDigits);
  const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  const size_t at = text.find(checksum);
  QUEST_CHECK(at != std::string_view::npos && text.find(checksum, at + 1) == std::string_view::npos,
              ErrorKind::kData, "{}: the checksum does not stand once in the header", file);
  return at;
}

std::string packed_checksum(std::span<const std::byte> file_bytes, size_t header_bytes,
                            size_t digits_at, ThreadPool* pool) {
  std::vector<std::byte> header(file_bytes.begin(),
                                file_bytes.begin() + static_cast<ptrdiff_t>(header_bytes));
  std::fill_n(header.begin() + static_cast<ptrdiff_t>(digits_at), kChecksumDigits, std::byte{'0'});
  PiecewiseChecksum sum;
  sum.update(header);
  sum.end_piece();
  sum.update(file_bytes.subspan(header_bytes), pool);
  return sum.hex();
}

}  // namespace quest
