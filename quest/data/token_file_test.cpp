#include "quest/data/token_file.h"

#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/checksum.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

using testing::TemporaryFolder;

TokenFileInfo sample_info(int64_t vocab_size) {
  TokenFileInfo info;
  info.vocab_size = vocab_size;
  info.eos_id = 2;
  info.tokenizer_fingerprint = std::string(32, 'f');
  return info;
}

std::vector<int32_t> random_tokens(size_t count, int64_t vocab_size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab_size));
  return tokens;
}

// Three documents of 5, 1 and the remaining tokens.
void write_sample(const std::filesystem::path& path, const std::vector<int32_t>& tokens,
                  int64_t vocab_size) {
  TokenFileWriter writer(path, sample_info(vocab_size));
  const std::span<const int32_t> all(tokens);
  writer.begin_document();
  writer.append(all.first(3), 10);
  writer.append(all.subspan(3, 2), 7);
  writer.begin_document();
  writer.append(all.subspan(5, 1), 3);
  writer.begin_document();
  writer.append(all.subspan(6), 80);
  writer.finish();
}

TEST(TokenFile, GivesBackWhatWasWritten) {
  for (const int64_t vocab_size : {257, 65536, 65537, 200000}) {
    for (const size_t count : {7u, 8u, 1001u, 700000u}) {
      TemporaryFolder folder;
      const auto tokens = random_tokens(count, vocab_size, 1);
      write_sample(folder / "a.qtok", tokens, vocab_size);
      const TokenFile file = TokenFile::open(folder / "a.qtok", TokenFile::Verify::kFull);
      EXPECT_EQ(file.info().bits_per_token, vocab_size <= 65536 ? 16 : 32);
      EXPECT_EQ(file.token_count(), static_cast<int64_t>(count));
      EXPECT_EQ(file.vocab_size(), vocab_size);
      EXPECT_EQ(file.text_bytes(), 100);
      EXPECT_EQ(file.info().bos_id, std::nullopt);
      EXPECT_EQ(file.info().eos_id, 2);
      EXPECT_EQ(file.info().tokenizer_fingerprint, std::string(32, 'f'));
      std::vector<int32_t> read(count);
      file.read(0, read);
      EXPECT_EQ(read, tokens);
      std::vector<int32_t> part(2);
      file.read(static_cast<int64_t>(count) - 2, part);
      EXPECT_EQ(part, std::vector<int32_t>(tokens.end() - 2, tokens.end()));
      const auto starts = file.document_starts();
      EXPECT_EQ(std::vector<uint64_t>(starts.begin(), starts.end()),
                (std::vector<uint64_t>{0, 5, 6}));
      EXPECT_EQ(file.document_of(0), 0);
      EXPECT_EQ(file.document_of(4), 0);
      EXPECT_EQ(file.document_of(5), 1);
      EXPECT_EQ(file.document_of(6), 2);
      EXPECT_EQ(file.document_of(static_cast<int64_t>(count) - 1), 2);
    }
  }
}

// The bytes of the format's description, spelled out.
TEST(TokenFile, HasTheDocumentedLayout) {
  TemporaryFolder folder;
  const auto tokens = random_tokens(9, 300, 2);
  write_sample(folder / "a.qtok", tokens, 300);
  const std::string bytes = read_file(folder / "a.qtok");
  ASSERT_EQ(bytes.size(), 128u + 24u + 24u);  // 9 * 2 bytes rounded up to 24, 3 documents
  EXPECT_EQ(bytes.substr(0, 8), std::string("QTOKENS\0", 8));
  const auto u32 = [&](size_t at) {
    uint32_t v;
    std::memcpy(&v, &bytes[at], 4);
    return v;
  };
  const auto u64 = [&](size_t at) {
    uint64_t v;
    std::memcpy(&v, &bytes[at], 8);
    return v;
  };
  EXPECT_EQ(u32(8), 1u);
  EXPECT_EQ(u32(12), 16u);
  EXPECT_EQ(u64(16), 9u);
  EXPECT_EQ(u64(24), 3u);
  EXPECT_EQ(u64(32), 100u);
  EXPECT_EQ(u64(40), 300u);
  EXPECT_EQ(static_cast<int64_t>(u64(48)), -1);
  EXPECT_EQ(u64(56), 2u);
  EXPECT_EQ(bytes.substr(64, 32), std::string(32, 'f'));
  EXPECT_EQ(u64(104), 0u);
  EXPECT_EQ(u64(112), 0u);
  const auto raw = std::as_bytes(std::span(bytes));
  const uint64_t block = checksum64(raw.subspan(128));
  EXPECT_EQ(u64(96), checksum64(std::as_bytes(std::span(&block, 1))));
  EXPECT_EQ(u64(120), checksum64(raw.first(120)));
  EXPECT_EQ(u32(128) & 0xFFFF, static_cast<uint32_t>(tokens[0]));
  EXPECT_EQ(u64(152 + 8), 5u);
}

TEST(TokenFile, EveryFlippedBitIsFound) {
  TemporaryFolder folder;
  write_sample(folder / "a.qtok", random_tokens(100, 300, 3), 300);
  const std::string good = read_file(folder / "a.qtok");
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
    const auto path = folder.write("bad.qtok", bad);
    EXPECT_QUEST_ERROR(TokenFile::open(path), ErrorKind::kData, "bad.qtok");
    // Without proof of the data, the header's damage is still found.
    if (at < 128) {
      EXPECT_QUEST_ERROR(TokenFile::open(path, TokenFile::Verify::kHeader), ErrorKind::kData,
                         "bad.qtok");
    }
  }
}

TEST(TokenFile, EveryTruncationAndExtensionIsFound) {
  TemporaryFolder folder;
  write_sample(folder / "a.qtok", random_tokens(100, 300, 3), 300);
  const std::string good = read_file(folder / "a.qtok");
  for (size_t size = 0; size < good.size(); ++size) {
    const auto path = folder.write("bad.qtok", good.substr(0, size));
    EXPECT_QUEST_ERROR(TokenFile::open(path, TokenFile::Verify::kHeader), ErrorKind::kData,
                       "bad.qtok");
  }
  const auto longer = folder.write("longer.qtok", good + std::string(8, '\0'));
  EXPECT_QUEST_ERROR(TokenFile::open(longer, TokenFile::Verify::kHeader), ErrorKind::kData,
                     "longer");
  EXPECT_QUEST_ERROR(TokenFile::open(folder / "none.qtok"), ErrorKind::kIo, "none.qtok");
}

// A header that is wrong but has the right checksum must do no harm either.
std::string forge(std::string bytes, size_t at, uint64_t value, size_t size) {
  std::memcpy(&bytes[at], &value, size);
  const uint64_t checksum = checksum64(std::as_bytes(std::span(bytes)).first(120));
  std::memcpy(&bytes[120], &checksum, 8);
  return bytes;
}

TEST(TokenFile, ForgedHeadersDoNoHarm) {
  TemporaryFolder folder;
  write_sample(folder / "a.qtok", random_tokens(100, 300, 4), 300);
  const std::string good = read_file(folder / "a.qtok");
  struct Case {
    size_t at;
    uint64_t value;
    size_t size;
  };
  for (const Case& c :
       {Case{8, 2, 4}, Case{12, 8, 4}, Case{12, 32, 4}, Case{16, 0, 8}, Case{16, 101, 8},
        Case{16, ~uint64_t{0}, 8}, Case{16, uint64_t{1} << 63, 8}, Case{24, 0, 8}, Case{24, 4, 8},
        Case{24, ~uint64_t{0}, 8}, Case{24, uint64_t{1} << 61, 8}, Case{32, ~uint64_t{0}, 8},
        Case{40, 0, 8}, Case{40, ~uint64_t{0}, 8}, Case{48, 300, 8}, Case{56, 1000, 8}}) {
    const auto path = folder.write("bad.qtok", forge(good, c.at, c.value, c.size));
    EXPECT_QUEST_ERROR(TokenFile::open(path, TokenFile::Verify::kHeader), ErrorKind::kData,
                       "bad.qtok");
  }
}

TEST(TokenFile, TokensOutsideTheVocabularyAreFound) {
  TemporaryFolder folder;
  write_sample(folder / "a.qtok", random_tokens(100, 300, 5), 300);
  std::string bytes = read_file(folder / "a.qtok");
  bytes[128 + 2 * 50 + 1] = '\x7F';
  const auto path = folder.write("bad.qtok", bytes);
  EXPECT_QUEST_ERROR(TokenFile::open(path), ErrorKind::kData, "checksum");
  const TokenFile file = TokenFile::open(path, TokenFile::Verify::kHeader);
  std::vector<int32_t> window(10);
  file.read(0, window);
  EXPECT_QUEST_ERROR(file.read(45, window), ErrorKind::kData, "token 50 is ");
}

TEST(TokenFile, AppearsOnlyWhenFinished) {
  TemporaryFolder folder;
  {
    TokenFileWriter writer(folder / "a.qtok", sample_info(300));
    writer.begin_document();
    writer.append(random_tokens(1000000, 300, 6), 1);
    EXPECT_FALSE(std::filesystem::exists(folder / "a.qtok"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  TokenFileWriter empty(folder / "b.qtok", sample_info(300));
  EXPECT_QUEST_ERROR(empty.finish(), ErrorKind::kData, "b.qtok");
  EXPECT_QUEST_ERROR(TokenFileWriter(folder / "no" / "c.qtok", sample_info(300)), ErrorKind::kIo,
                     "no");
}

TEST(TokenFile, DocumentsWithoutTokensAreNone) {
  TemporaryFolder folder;
  TokenFileWriter writer(folder / "a.qtok", sample_info(300));
  const std::vector<int32_t> tokens = {1, 2};
  writer.begin_document();
  writer.begin_document();
  writer.append(tokens, 2);
  writer.begin_document();
  writer.finish();
  const TokenFile file = TokenFile::open(folder / "a.qtok");
  EXPECT_EQ(file.document_count(), 1);
  EXPECT_EQ(file.document_starts().front(), 0u);
}

}  // namespace
}  // namespace quest
