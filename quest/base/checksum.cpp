#include "quest/base/checksum.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include <xxhash.h>

#include "quest/base/thread_pool.h"

namespace quest {
namespace {

constexpr size_t kDigest = sizeof(XXH128_canonical_t);

void write_digest(std::span<const std::byte> piece, std::byte* digest) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(piece.data(), piece.size()));
  std::memcpy(digest, &canonical, kDigest);
}

}  // namespace

uint64_t checksum64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::string checksum128_hex(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", static_cast<uint64_t>(hash.high64),
                     static_cast<uint64_t>(hash.low64));
}

std::string checksum128_hex(std::string_view text) {
  return checksum128_hex(std::as_bytes(std::span<const char>(text.data(), text.size())));
}

void PiecewiseChecksum::update(std::span<const std::byte> bytes, ThreadPool* pool) {
  if (!pending_.empty()) {
    const size_t part = std::min(kPiece - pending_.size(), bytes.size());
    pending_.insert(pending_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(part));
    bytes = bytes.subspan(part);
    if (pending_.size() == kPiece) end_piece();
  }
  const size_t pieces = bytes.size() / kPiece;
  const size_t begin = digests_.size();
  digests_.resize(begin + pieces * kDigest);
  const auto digest_of = [&](int64_t i) {
    const auto k = static_cast<size_t>(i);
    write_digest(bytes.subspan(k * kPiece, kPiece), digests_.data() + begin + k * kDigest);
  };
  if (pool != nullptr) {
    pool->parallel_for(static_cast<int64_t>(pieces), digest_of);
  } else {
    for (size_t i = 0; i < pieces; ++i) digest_of(static_cast<int64_t>(i));
  }
  const auto rest = bytes.subspan(pieces * kPiece);
  pending_.insert(pending_.end(), rest.begin(), rest.end());
}

void PiecewiseChecksum::end_piece() {
  if (pending_.empty()) return;
  digests_.resize(digests_.size() + kDigest);
  write_digest(pending_, digests_.data() + digests_.size() - kDigest);
  pending_.clear();
}

std::string PiecewiseChecksum::hex() {
  end_piece();
  return checksum128_hex(digests_);
}

}  // namespace quest
