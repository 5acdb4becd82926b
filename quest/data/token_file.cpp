#include "quest/data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>

#include "quest/base/atomic_file.h"
#include "quest/base/checksum.h"
#include "quest/base/error.h"

namespace quest {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are mapped as they are");

constexpr char kMagic[8] = {'Q', 'T', 'O', 'K', 'E', 'N', 'S', '\0'};
constexpr uint32_t kVersion = 1;
constexpr size_t kBlockBytes = size_t{1} << 20;
constexpr uint64_t kAutoVerifyBytes = uint64_t{256} << 20;
constexpr int64_t kMaxVocabSize = int64_t{1} << 31;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t bits_per_token;
  uint64_t token_count;
  uint64_t document_count;
  uint64_t text_bytes;
  uint64_t vocab_size;
  int64_t bos_id;
  int64_t eos_id;
  char tokenizer_fingerprint[32];
  uint64_t data_checksum;
  uint64_t reserved[2];
  uint64_t header_checksum;
};
static_assert(sizeof(Header) == 128);

uint64_t checksum_of(const Header& header) {
  return checksum64(std::as_bytes(std::span(&header, 1)).first(offsetof(Header, header_checksum)));
}

uint64_t checksum_of_blocks(const std::vector<uint64_t>& block_checksums) {
  return checksum64(std::as_bytes(std::span(block_checksums)));
}

uint64_t round_up_to_8(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

int bits_for_vocab(int64_t vocab_size) { return vocab_size <= 65536 ? 16 : 32; }

std::optional<int32_t> optional_id(int64_t id) {
  return id < 0 ? std::nullopt : std::optional<int32_t>(static_cast<int32_t>(id));
}

// Largest of a run of stored tokens; as unsigned, so that a 32-bit value above 2^31 counts as
// large.
template <class T>
uint32_t widen(const T* stored, std::span<int32_t> out) {
  uint32_t largest = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<int32_t>(stored[i]);
    largest = std::max<uint32_t>(largest, stored[i]);
  }
  return largest;
}

}  // namespace

TokenFile TokenFile::open(const std::filesystem::path& path, Verify verify) {
  TokenFile file{FileBytes(path)};
  file.parse_header();
  const bool full = verify == Verify::kFull ||
                    (verify == Verify::kAuto && file.file_.bytes().size() <= kAutoVerifyBytes);
  if (full) file.verify_data();
  return file;
}

void TokenFile::parse_header() {
  const std::span<const std::byte> bytes = file_.bytes();
  const std::string name = path().string();
  Header header;
  QUEST_CHECK(bytes.size() >= sizeof(header), ErrorKind::kData,
              "{} is no token file, or is truncated: it has {} bytes", name, bytes.size());
  std::memcpy(&header, bytes.data(), sizeof(header));
  QUEST_CHECK(std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0, ErrorKind::kData,
              "{} is no token file (make one with quest data)", name);
  QUEST_CHECK(header.version == kVersion, ErrorKind::kData,
              "{} has version {} of the token file format, this program reads version {}", name,
              header.version, kVersion);
  QUEST_CHECK(header.header_checksum == checksum_of(header), ErrorKind::kData,
              "{} is damaged: its header's checksum is wrong", name);
  // The checksum finds accidents. What follows also keeps a forged header from doing harm.
  QUEST_CHECK((header.bits_per_token == 16 || header.bits_per_token == 32) &&
                  header.vocab_size >= 1 && header.vocab_size <= uint64_t{kMaxVocabSize} &&
                  header.bos_id < static_cast<int64_t>(header.vocab_size) &&
                  header.eos_id < static_cast<int64_t>(header.vocab_size),
              ErrorKind::kData,
              "{} is damaged: {} bits per token, vocabulary {}, bos {}, eos {} are impossible",
              name, header.bits_per_token, header.vocab_size, header.bos_id, header.eos_id);
  const uint64_t token_bytes = header.bits_per_token / 8;
  const uint64_t payload = bytes.size() - sizeof(header);
  const bool counts_fit = header.token_count >= 1 && header.document_count >= 1 &&
                          header.token_count <= payload / token_bytes &&
                          header.document_count <= payload / 8 &&
                          header.text_bytes <= uint64_t{INT64_MAX};
  const uint64_t expected =
      counts_fit ? round_up_to_8(header.token_count * token_bytes) + header.document_count * 8 : 0;
  QUEST_CHECK(
      counts_fit && expected == payload, ErrorKind::kData,
      "{} is truncated or damaged: {} bytes do not hold {} tokens of {} bits and {} documents",
      name, bytes.size(), header.token_count, header.bits_per_token, header.document_count);

  info_.token_count = static_cast<int64_t>(header.token_count);
  info_.document_count = static_cast<int64_t>(header.document_count);
  info_.text_bytes = static_cast<int64_t>(header.text_bytes);
  info_.vocab_size = static_cast<int64_t>(header.vocab_size);
  info_.bos_id = optional_id(header.bos_id);
  info_.eos_id = optional_id(header.eos_id);
  info_.tokenizer_fingerprint.assign(header.tokenizer_fingerprint,
                                     sizeof(header.tokenizer_fingerprint));
  info_.bits_per_token = static_cast<int>(header.bits_per_token);
  info_.data_checksum = header.data_checksum;

  tokens_ = bytes.subspan(sizeof(header), header.token_count * token_bytes);
  const auto starts = bytes.last(header.document_count * 8);
  document_starts_ = {reinterpret_cast<const uint64_t*>(starts.data()), header.document_count};
  QUEST_CHECK(document_starts_.front() == 0 && document_starts_.back() < header.token_count,
              ErrorKind::kData, "{} is damaged: its documents lie outside its tokens", name);
}

void TokenFile::verify_data() const {
  std::span<const std::byte> payload = file_.bytes().subspan(sizeof(Header));
  std::vector<uint64_t> checksums;
  for (; !payload.empty(); payload = payload.subspan(std::min(kBlockBytes, payload.size()))) {
    checksums.push_back(checksum64(payload.first(std::min(kBlockBytes, payload.size()))));
  }
  QUEST_CHECK(checksum_of_blocks(checksums) == info_.data_checksum, ErrorKind::kData,
              "{} is damaged: the checksum of its tokens is wrong", path().string());
  for (size_t i = 1; i < document_starts_.size(); ++i) {
    QUEST_CHECK(document_starts_[i] > document_starts_[i - 1], ErrorKind::kData,
                "{} is damaged: document {} begins at token {}, the one before at {}",
                path().string(), i, document_starts_[i], document_starts_[i - 1]);
  }
  std::vector<int32_t> part(4096);
  for (int64_t start = 0; start < token_count(); start += static_cast<int64_t>(part.size())) {
    const int64_t count =
        std::min<int64_t>(static_cast<int64_t>(part.size()), token_count() - start);
    read(start, std::span(part).first(static_cast<size_t>(count)));
  }
}

void TokenFile::read(int64_t start, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  QUEST_ASSERT(start >= 0 && count <= token_count() && start <= token_count() - count,
               "tokens {} to {} of {}", start, start + count, token_count());
  const uint32_t largest =
      info_.bits_per_token == 16
          ? widen(reinterpret_cast<const uint16_t*>(tokens_.data()) + start, out)
          : widen(reinterpret_cast<const uint32_t*>(tokens_.data()) + start, out);
  if (largest < static_cast<uint64_t>(info_.vocab_size)) [[likely]]
    return;
  const auto bad = std::find_if(out.begin(), out.end(), [&](int32_t token) {
    return static_cast<uint32_t>(token) >= static_cast<uint64_t>(info_.vocab_size);
  });
  QUEST_THROW(ErrorKind::kData, "{} is damaged: token {} is {}, its vocabulary has {}",
              path().string(), start + (bad - out.begin()), static_cast<uint32_t>(*bad),
              info_.vocab_size);
}

void TokenFile::will_read(int64_t start, int64_t count) const {
  const auto token_bytes = static_cast<size_t>(info_.bits_per_token / 8);
  file_.will_read(sizeof(Header) + static_cast<size_t>(start) * token_bytes,
                  static_cast<size_t>(count) * token_bytes);
}

int64_t TokenFile::document_of(int64_t token_index) const {
  QUEST_ASSERT(token_index >= 0 && token_index < token_count(), "token {} of {}", token_index,
               token_count());
  const auto after = std::upper_bound(document_starts_.begin(), document_starts_.end(),
                                      static_cast<uint64_t>(token_index));
  return after - document_starts_.begin() - 1;
}

struct TokenFileWriter::Output {
  explicit Output(const std::filesystem::path& path) : file(path) { block.reserve(kBlockBytes); }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const size_t count = std::min(bytes.size(), kBlockBytes - block.size());
      block.insert(block.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
      bytes = bytes.subspan(count);
      if (block.size() == kBlockBytes) end_block();
    }
  }
  void end_block() {
    if (block.empty()) return;
    block_checksums.push_back(checksum64(block));
    file.write(std::span<const std::byte>(block));
    block.clear();
  }

  AtomicFile file;
  std::vector<std::byte> block;
  std::vector<uint64_t> block_checksums;
  std::deque<uint64_t> document_starts;
};

TokenFileWriter::TokenFileWriter(std::filesystem::path path, const TokenFileInfo& info)
    : path_(std::move(path)) {
  QUEST_ASSERT(info.vocab_size >= 1 && info.vocab_size <= kMaxVocabSize &&
               info.tokenizer_fingerprint.size() == sizeof(Header::tokenizer_fingerprint));
  info_.vocab_size = info.vocab_size;
  info_.bos_id = info.bos_id;
  info_.eos_id = info.eos_id;
  info_.tokenizer_fingerprint = info.tokenizer_fingerprint;
  info_.bits_per_token = bits_for_vocab(info.vocab_size);
  output_ = std::make_unique<Output>(path_);
  const Header blank{};
  output_->file.write(std::as_bytes(std::span(&blank, 1)));
}

TokenFileWriter::~TokenFileWriter() = default;

void TokenFileWriter::begin_document() {
  const auto start = static_cast<uint64_t>(info_.token_count);
  // A document that got no tokens is none.
  if (!output_->document_starts.empty() && output_->document_starts.back() == start) return;
  output_->document_starts.push_back(start);
}

void TokenFileWriter::append(std::span<const int32_t> tokens, int64_t text_bytes) {
  QUEST_ASSERT(!output_->document_starts.empty(), "append before begin_document");
  for (const int32_t token : tokens) {
    QUEST_ASSERT(token >= 0 && token < info_.vocab_size, "token {} of {}", token, info_.vocab_size);
  }
  if (info_.bits_per_token == 16) {
    const std::vector<uint16_t> narrow(tokens.begin(), tokens.end());
    output_->write(std::as_bytes(std::span(narrow)));
  } else {
    output_->write(std::as_bytes(tokens));
  }
  info_.token_count += static_cast<int64_t>(tokens.size());
  info_.text_bytes += text_bytes;
}

void TokenFileWriter::finish() {
  QUEST_CHECK(info_.token_count > 0, ErrorKind::kData, "there are no tokens to write to {}",
              path_.string());
  std::deque<uint64_t>& starts = output_->document_starts;
  if (starts.back() == static_cast<uint64_t>(info_.token_count)) starts.pop_back();
  info_.document_count = static_cast<int64_t>(starts.size());

  const auto token_bytes = static_cast<uint64_t>(info_.token_count * (info_.bits_per_token / 8));
  const std::byte zeros[8] = {};
  output_->write(std::span(zeros).first(round_up_to_8(token_bytes) - token_bytes));
  for (const uint64_t start : starts) output_->write(std::as_bytes(std::span(&start, 1)));
  output_->end_block();
  info_.data_checksum = checksum_of_blocks(output_->block_checksums);

  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.bits_per_token = static_cast<uint32_t>(info_.bits_per_token);
  header.token_count = static_cast<uint64_t>(info_.token_count);
  header.document_count = static_cast<uint64_t>(info_.document_count);
  header.text_bytes = static_cast<uint64_t>(info_.text_bytes);
  header.vocab_size = static_cast<uint64_t>(info_.vocab_size);
  header.bos_id = info_.bos_id.value_or(-1);
  header.eos_id = info_.eos_id.value_or(-1);
  std::memcpy(header.tokenizer_fingerprint, info_.tokenizer_fingerprint.data(),
              sizeof(header.tokenizer_fingerprint));
  header.data_checksum = info_.data_checksum;
  header.header_checksum = checksum_of(header);
  output_->file.overwrite(0, std::as_bytes(std::span(&header, 1)));
  output_->file.publish();
}

}  // namespace quest
