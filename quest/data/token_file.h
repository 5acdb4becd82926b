// Token files: a tokenized corpus, memory-mapped.
//
// Format (.qtok, version 1, all numbers little-endian):
//   offset  bytes  content
//        0      8  "QTOKENS\0"
//        8      4  version: 1
//       12      4  bits per token: 16 or 32 (16 if the vocabulary has at most 65536 tokens)
//       16      8  number of tokens n
//       24      8  number of documents d
//       32      8  UTF-8 bytes of the text that the tokens stand for
//       40      8  vocabulary size
//       48      8  id of the beginning-of-document token, -1 if there is none
//       56      8  id of the end-of-document token, -1 if there is none
//       64     32  tokenizer fingerprint, hexadecimal digits
//       96      8  checksum of the data: XXH3-64 of the list of XXH3-64 of each 1 MiB of
//                  what follows the header
//      104     16  zero
//      120      8  XXH3-64 of bytes 0 to 119
//      128    n*2 or n*4  tokens, then zeros up to a multiple of 8
//             d*8  index of each document's first token; ascending, the first is 0
// The file ends there. A document's tokens include its end-of-document token.
//
//   TokenFile file = TokenFile::open("data/train.qtok");
//   std::vector<int32_t> window(513);
//   file.read(start, window);
//
// Thread rules: a TokenFile may be read from any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quest/base/file_bytes.h"

namespace quest {

struct TokenFileInfo {
  int64_t token_count = 0;
  int64_t document_count = 0;
  int64_t text_bytes = 0;
  int64_t vocab_size = 0;
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::string tokenizer_fingerprint;
  int bits_per_token = 16;
  uint64_t data_checksum = 0;
};

class TokenFile {
 public:
  // kAuto: kFull up to 256 MiB, else kHeader. Header, sizes and offsets are always proven; kFull
  // also proves the data's checksum, each token and each document start.
  enum class Verify { kAuto, kHeader, kFull };
  // Throws kIo or kData, naming the file.
  static TokenFile open(const std::filesystem::path& path, Verify verify = Verify::kAuto);

  const TokenFileInfo& info() const { return info_; }
  int64_t token_count() const { return info_.token_count; }
  int64_t document_count() const { return info_.document_count; }
  int64_t vocab_size() const { return info_.vocab_size; }
  int64_t text_bytes() const { return info_.text_bytes; }
  const std::filesystem::path& path() const { return file_.path(); }

  // Tokens [start, start + out.size()). A range outside the file is a bug of the caller (asserted);
  // a token outside the vocabulary throws kData with file and position.
  void read(int64_t start, std::span<int32_t> out) const;
  // A hint that these tokens are read soon (FileBytes::will_read).
  void will_read(int64_t start, int64_t count) const;
  // Index of each document's first token.
  std::span<const uint64_t> document_starts() const { return document_starts_; }
  // The document that holds this token.
  int64_t document_of(int64_t token_index) const;

 private:
  explicit TokenFile(FileBytes file) : file_(std::move(file)) {}
  void parse_header();
  void verify_data() const;

  FileBytes file_;
  TokenFileInfo info_;
  std::span<const std::byte> tokens_;
  std::span<const uint64_t> document_starts_;
};

// Writes a token file with bounded memory (8 bytes per document). The file appears under its name
// only by finish(); the destructor removes what an unfinished writer left.
class TokenFileWriter {
 public:
  // Of info: vocab_size, bos_id, eos_id, tokenizer_fingerprint.
  TokenFileWriter(std::filesystem::path path, const TokenFileInfo& info);
  ~TokenFileWriter();
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  void begin_document();
  // Adds to the document begun last. text_bytes: of the text that these tokens stand for.
  void append(std::span<const int32_t> tokens, int64_t text_bytes);
  // Throws kIo (path, reason: a full disk, ...) and kData if there is no token.
  void finish();
  const TokenFileInfo& info() const { return info_; }

 private:
  struct Output;
  std::filesystem::path path_;
  TokenFileInfo info_;
  std::unique_ptr<Output> output_;
};

}  // namespace quest
