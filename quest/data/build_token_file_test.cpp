#include "quest/data/build_token_file.h"

#include <csignal>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/shutdown.h"
#include "quest/base/testing.h"
#include "quest/text/testing_text.h"
#include "quest/text/train_sentencepiece.h"

namespace quest {
namespace {

using testing::kSampleText;
using testing::TemporaryFolder;

const Tokenizer& sample_tokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer = [] {
    bool given = false;
    return train_sentencepiece({.vocab_size = 500}, [&](std::string& next) {
      next = kSampleText;
      return !std::exchange(given, true);
    });
  }();
  return *tokenizer;
}

BuildOptions quiet(double validation_fraction, int threads = 1) {
  return {.validation_fraction = validation_fraction, .threads = threads, .show_progress = false};
}

BuildResult build(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                  const BuildOptions& options, const TemporaryFolder& out,
                  const TextSourceOptions& source_options = {}) {
  TextSource source(inputs, source_options);
  return build_token_files(source, tokenizer, options, out / "train.qtok", out / "validation.qtok");
}

std::vector<std::string> decode_documents(const std::filesystem::path& path,
                                          const Tokenizer& tokenizer) {
  const TokenFile file = TokenFile::open(path, TokenFile::Verify::kFull);
  std::vector<std::string> documents;
  for (int64_t d = 0; d < file.document_count(); ++d) {
    const auto start = static_cast<int64_t>(file.document_starts()[static_cast<size_t>(d)]);
    const int64_t end =
        d + 1 < file.document_count()
            ? static_cast<int64_t>(file.document_starts()[static_cast<size_t>(d + 1)])
            : file.token_count();
    std::vector<int32_t> ids(static_cast<size_t>(end - start));
    file.read(start, ids);
    EXPECT_EQ(ids.back(), tokenizer.eos_id());
    EXPECT_EQ(std::count(ids.begin(), ids.end(), *tokenizer.eos_id()), 1);
    documents.push_back(tokenizer.decode(ids));
  }
  return documents;
}

TEST(BuildTokenFiles, DocumentsComeBack) {
  TemporaryFolder folder, out;
  const std::vector<std::string> texts = {"God said", "  two spaces",
                                          "na\xC3\xAFve \xF0\x9F\x99\x82\n"};
  for (size_t i = 0; i < texts.size(); ++i) folder.write(fmt::format("{}.txt", i), texts[i]);
  const auto bytes = make_byte_tokenizer();
  const std::vector<const Tokenizer*> tokenizers = {&sample_tokenizer(), bytes.get()};
  for (const Tokenizer* tokenizer : tokenizers) {
    const BuildResult result = build({folder.path().string()}, *tokenizer, quiet(0), out);
    EXPECT_EQ(decode_documents(out / "train.qtok", *tokenizer), texts);
    EXPECT_EQ(result.train.document_count, 3);
    EXPECT_EQ(result.train.text_bytes,
              static_cast<int64_t>(texts[0].size() + texts[1].size() + texts[2].size()));
    EXPECT_EQ(result.train.tokenizer_fingerprint, tokenizer->fingerprint());
    EXPECT_EQ(result.validation.token_count, 0);
    EXPECT_FALSE(std::filesystem::exists(out / "validation.qtok"));
  }
}

TEST(BuildTokenFiles, ALongTextHasTheTokensOfTheWholeText) {
  TemporaryFolder folder, out;
  const auto path = folder.write("a.txt", kSampleText).string();
  build({path}, sample_tokenizer(), quiet(0), out, {.max_chunk_bytes = 200});
  const TokenFile file = TokenFile::open(out / "train.qtok");
  std::vector<int32_t> ids(static_cast<size_t>(file.token_count()));
  file.read(0, ids);
  auto expected = sample_tokenizer().encode(kSampleText);
  expected.push_back(*sample_tokenizer().eos_id());
  EXPECT_EQ(ids, expected);
}

TEST(BuildTokenFiles, AnyNumberOfThreadsGivesTheSameFiles) {
  TemporaryFolder folder;
  std::string jsonl, text;
  for (int i = 0; i < 300; ++i) {
    jsonl += fmt::format("{{\"text\": \"document {} says {}\"}}\n", i,
                         std::string(static_cast<size_t>(i), 'x'));
    text += fmt::format("Part {}\n{}", i, kSampleText);
  }
  folder.write("a.jsonl", jsonl);
  folder.write("b.txt", text);
  std::vector<std::string> train, validation;
  for (const int threads : {1, 2, 5}) {
    TemporaryFolder out;
    build({folder.path().string()}, sample_tokenizer(), quiet(0.1, threads), out,
          {.max_chunk_bytes = 10000});
    train.push_back(read_file(out / "train.qtok"));
    validation.push_back(read_file(out / "validation.qtok"));
  }
  EXPECT_EQ(train[0], train[1]);
  EXPECT_EQ(train[0], train[2]);
  EXPECT_EQ(validation[0], validation[1]);
  EXPECT_EQ(validation[0], validation[2]);
}

TEST(BuildTokenFiles, HoldsOutTextThatTrainingLacks) {
  TemporaryFolder folder, out;
  std::string text;
  for (int i = 0; i < 20000; ++i) text += fmt::format("word{} ", i);  // no word twice
  folder.write("a.txt", text);
  const BuildResult result = build({folder.path().string()}, sample_tokenizer(), quiet(0.05), out);
  const auto train = decode_documents(out / "train.qtok", sample_tokenizer());
  const auto held_out = decode_documents(out / "validation.qtok", sample_tokenizer());
  EXPECT_EQ(held_out.size(), 8u);
  std::string all_train;
  for (const std::string& document : train) all_train += document + " ";
  for (const std::string& document : held_out) {
    const std::string word = document.substr(0, document.find(' ')) + " ";
    EXPECT_NE(text.find(word), std::string::npos);
    EXPECT_EQ(all_train.find(word), std::string::npos) << word;
  }
  const double share = static_cast<double>(result.validation.text_bytes) /
                       static_cast<double>(result.validation.text_bytes + result.train.text_bytes);
  EXPECT_NEAR(share, 0.05, 0.001);
}

TEST(BuildTokenFiles, PutsBosBeforeDocuments) {
  TemporaryFolder folder, out;
  folder.write("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
  BuildOptions options = quiet(0);
  options.prepend_bos = true;
  build({folder.path().string()}, sample_tokenizer(), options, out);
  const TokenFile file = TokenFile::open(out / "train.qtok");
  for (const uint64_t start : file.document_starts()) {
    int32_t token = -1;
    file.read(static_cast<int64_t>(start), std::span(&token, 1));
    EXPECT_EQ(token, sample_tokenizer().bos_id());
  }
  EXPECT_EQ(file.document_count(), 2);
  EXPECT_QUEST_ERROR(build({folder.path().string()}, *make_byte_tokenizer(), options, out),
                     ErrorKind::kUsage, "no beginning-of-document");
}

TEST(BuildTokenFiles, ASignalLeavesNothing) {
  TemporaryFolder folder, out;
  folder.write("a.txt", kSampleText);
  install_shutdown_handlers();
  std::raise(SIGTERM);
  const BuildResult result = build({folder.path().string()}, sample_tokenizer(), quiet(0.1), out);
  reset_shutdown_signal();
  EXPECT_TRUE(result.interrupted);
  EXPECT_TRUE(std::filesystem::is_empty(out.path()));
}

TEST(BuildTokenFiles, ErrorsLeaveNothing) {
  TemporaryFolder folder, out;
  folder.write("a.jsonl", "{\"text\": \"one\"}\nbad\n");
  EXPECT_QUEST_ERROR(build({folder.path().string()}, sample_tokenizer(), quiet(0), out),
                     ErrorKind::kData, "line 2");
  const auto empty = folder.write("b.txt", "").string();
  EXPECT_QUEST_ERROR(build({empty}, sample_tokenizer(), quiet(0), out), ErrorKind::kData,
                     "no text in 1 input file;");
  EXPECT_QUEST_ERROR(build({empty}, sample_tokenizer(), quiet(0.7), out), ErrorKind::kUsage, "0.7");
  EXPECT_QUEST_ERROR(build({empty}, sample_tokenizer(), quiet(0, -1), out), ErrorKind::kUsage,
                     "-1");
  EXPECT_TRUE(std::filesystem::is_empty(out.path()));
}

}  // namespace
}  // namespace quest
