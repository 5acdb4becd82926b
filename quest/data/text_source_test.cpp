#include "quest/data/text_source.h"

#include <cstdio>
#include <random>
#include <unistd.h>

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include "quest/base/testing.h"
#include "quest/text/testing_text.h"
#include "quest/text/utf8.h"

namespace quest {
namespace {

using testing::kSampleText;
using testing::TemporaryFolder;

std::string gzip(std::string_view text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// With a checksum, as the zstd program writes.
std::string zstd(std::string_view text) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size()));
  ZSTD_freeCCtx(context);
  return out;
}

struct Document {
  std::string text;
  int chunks = 0;
};

std::vector<Document> read_all(TextSource& source) {
  std::vector<Document> documents;
  bool inside = false;
  for (TextChunk chunk; source.next(chunk);) {
    EXPECT_EQ(chunk.begins_document, !inside);
    EXPECT_FALSE(chunk.text.empty());
    EXPECT_TRUE(is_valid_utf8(chunk.text));
    if (chunk.begins_document) documents.emplace_back();
    documents.back().text += chunk.text;
    ++documents.back().chunks;
    inside = !chunk.ends_document;
  }
  EXPECT_FALSE(inside);
  EXPECT_EQ(source.counts().documents, static_cast<int64_t>(documents.size()));
  return documents;
}

std::vector<std::string> texts_of(const std::vector<std::string>& inputs,
                                  const TextSourceOptions& options = {}) {
  TextSource source(inputs, options);
  std::vector<std::string> texts;
  for (Document& document : read_all(source)) texts.push_back(std::move(document.text));
  return texts;
}

using Texts = std::vector<std::string>;

std::string big_text() {
  std::string text;
  for (int i = 0; i < 200; ++i) text += fmt::format("Part {}\n{}", i, kSampleText);
  return text;
}

TEST(TextSource, ReadsEveryFormat) {
  TemporaryFolder folder;
  const std::string jsonl =
      "{\"text\": \"one\", \"id\": 1}\n\n{\"id\": 2, \"text\": "
      "\"t\\u00e4wo\\n\"}\r\n{\"text\":\"last\"}";
  const Texts documents = {"one", "t\xC3\xA4wo\n", "last"};
  EXPECT_EQ(texts_of({folder.write("a.txt", "hello\n")}), Texts{"hello\n"});
  EXPECT_EQ(texts_of({folder.write("noname", "hello")}), Texts{"hello"});
  EXPECT_EQ(texts_of({folder.write("a.txt.gz", gzip("hello"))}), Texts{"hello"});
  EXPECT_EQ(texts_of({folder.write("a.txt.zst", zstd("hello"))}), Texts{"hello"});
  EXPECT_EQ(texts_of({folder.write("a.jsonl", jsonl)}), documents);
  EXPECT_EQ(texts_of({folder.write("a.jsonl.gz", gzip(jsonl))}), documents);
  EXPECT_EQ(texts_of({folder.write("a.ndjson.zst", zstd(jsonl))}), documents);
  // Several members and frames, as made by cat; zeros behind gzip data are padding.
  EXPECT_EQ(texts_of({folder.write("b.gz", gzip("one ") + gzip("") + gzip("two"))}),
            Texts{"one two"});
  EXPECT_EQ(texts_of({folder.write("c.gz", gzip("one") + std::string(512, '\0'))}), Texts{"one"});
  EXPECT_EQ(texts_of({folder.write("b.zst", zstd("one ") + zstd("") + zstd("two"))}),
            Texts{"one two"});
  EXPECT_EQ(texts_of({folder.write("d.jsonl", "{\"content\": \"x\"}")}, {.json_field = "content"}),
            Texts{"x"});
}

TEST(TextSource, FindsFilesInFoldersAndGlobs) {
  TemporaryFolder folder;
  folder.write("corpus/b.txt", "b");
  folder.write("corpus/a.txt", "a");
  folder.write("corpus/sub/c.jsonl", "{\"text\":\"c\"}");
  folder.write("corpus/sub/d.txt.gz", gzip("d"));
  folder.write("corpus/image.png", "not text");
  const std::string root = folder.path().string();
  EXPECT_EQ(texts_of({root + "/corpus"}), (Texts{"a", "b", "c", "d"}));
  EXPECT_EQ(texts_of({root + "/corpus/*.txt"}), (Texts{"a", "b"}));
  EXPECT_EQ(texts_of({root + "/corpus/s*"}), (Texts{"c", "d"}));
  // Named twice, read once; order of first mention.
  EXPECT_EQ(texts_of({root + "/corpus/b.txt", root + "/corpus", root + "/corpus/../corpus/a.txt"}),
            (Texts{"b", "a", "c", "d"}));
  folder.write("odd[1].txt", "odd");
  EXPECT_EQ(texts_of({root + "/odd[1].txt"}), Texts{"odd"});
  std::filesystem::create_directory(folder / "empty");
  EXPECT_QUEST_ERROR(texts_of({root + "/empty"}), ErrorKind::kIo, "holds no text files");
  EXPECT_QUEST_ERROR(texts_of({root + "/none.txt"}), ErrorKind::kIo, "none.txt");
  EXPECT_QUEST_ERROR(texts_of({root + "/*.none"}), ErrorKind::kIo, "nothing matches");
  EXPECT_QUEST_ERROR(texts_of({}), ErrorKind::kUsage, "no text is named");
}

// Puts a file in the place of standard input for a while.
class StandardInput {
 public:
  explicit StandardInput(const std::filesystem::path& path) : saved_(::dup(STDIN_FILENO)) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    ::dup2(::fileno(file), STDIN_FILENO);
    std::fclose(file);
  }
  ~StandardInput() {
    ::dup2(saved_, STDIN_FILENO);
    ::close(saved_);
  }

 private:
  int saved_;
};

TEST(TextSource, ReadsStandardInput) {
  TemporaryFolder folder;
  {
    StandardInput input(folder.write("a", "from stdin"));
    TextSource source({"-"}, {});
    EXPECT_EQ(source.total_file_bytes(), 0);
    EXPECT_EQ(read_all(source).at(0).text, "from stdin");
  }
  {
    StandardInput input(folder.write("b", zstd("{\"text\": \"x\"}\n{\"text\": \"y\"}\n")));
    EXPECT_EQ(texts_of({"-"}, {.stdin_format = "jsonl"}), (Texts{"x", "y"}));
  }
  EXPECT_QUEST_ERROR(texts_of({"-"}, {.stdin_format = "xml"}), ErrorKind::kUsage, "xml");
}

TEST(TextSource, CutsLongDocumentsWithoutLosingAByte) {
  TemporaryFolder folder;
  const std::string text = big_text();
  const std::string json = "{\"text\": \"" + std::string(1000, 'x') + " y\"}\n";
  const auto txt = folder.write("a.txt", text).string();
  for (const int64_t limit : {16, 100, 4096, 262144, 1 << 24}) {
    TextSource source({txt, folder.write("b.jsonl", json)}, {.max_chunk_bytes = limit});
    int64_t chunks = 0, at_spaces = 0;
    std::string joined;
    for (TextChunk chunk; source.next(chunk);) {
      ASSERT_LE(static_cast<int64_t>(chunk.text.size()), limit);
      if (!chunk.begins_document) at_spaces += chunk.text[0] == ' ';
      ++chunks;
      joined += chunk.text;
    }
    EXPECT_EQ(joined, text + std::string(1000, 'x') + " y");
    EXPECT_EQ(source.counts().text_bytes, static_cast<int64_t>(joined.size()));
    if (limit == 4096) {
      EXPECT_GE(at_spaces, chunks - 4);
    }
    EXPECT_EQ(source.file_bytes_read(), source.total_file_bytes());
  }
  EXPECT_QUEST_ERROR(texts_of({txt}, {.max_chunk_bytes = 1}), ErrorKind::kUsage,
                     "chunks of 1 bytes");
}

TEST(TextSource, SplitsTextAtASeparator) {
  TemporaryFolder folder;
  const auto path =
      folder.write("a.txt", "one<|end|>two and three<|end|><|end|>  \n<|end|>four").string();
  const Texts expected = {"one", "two and three", "four"};
  EXPECT_EQ(texts_of({path}, {.document_separator = "<|end|>"}), expected);
  TextSource source({path}, {.document_separator = "<|end|>"});
  read_all(source);
  EXPECT_EQ(source.counts().empty_documents, 2);

  // Separators at every place relative to chunks and blocks.
  std::string text;
  Texts documents;
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    documents.push_back("d" + std::string(random() % 400, 'x'));
    text += documents.back() + "<|end|>";
  }
  const auto many = folder.write("many.txt", text).string();
  for (const int64_t limit : {16, 61, 262144}) {
    EXPECT_EQ(texts_of({many}, {.document_separator = "<|end|>", .max_chunk_bytes = limit}),
              documents);
  }
}

TEST(TextSource, RepairsAndCountsWhatIsNoUtf8) {
  TemporaryFolder folder;
  const std::string good(kSampleText);
  const auto path = folder.write("a.txt", "\xEF\xBB\xBF" + good + "\xFF" + good + "\xC3");
  TextSource source({path}, {});
  EXPECT_EQ(read_all(source).at(0).text, good + "\xEF\xBF\xBD" + good + "\xEF\xBF\xBD");
  EXPECT_EQ(source.counts().replaced_bytes, 2);
  // A character across the border of two blocks is no damage.
  std::string umlauts = "x";
  while (umlauts.size() < 600000) umlauts += "\xC3\xA4";
  EXPECT_EQ(texts_of({folder.write("b.txt", umlauts)}), Texts{umlauts});

  EXPECT_QUEST_ERROR(texts_of({folder.write("c.txt", "\xFF\xFEh\0i\0")}), ErrorKind::kData,
                     "UTF-16");
  std::string noise(20000, '\0');
  std::mt19937 random(2);
  for (char& c : noise) c = static_cast<char>(random());
  noise[0] = 'x';
  EXPECT_QUEST_ERROR(texts_of({folder.write("d.txt", noise)}), ErrorKind::kData,
                     "d.txt is no UTF-8");
  EXPECT_QUEST_ERROR(texts_of({folder.write("e.txt", "\xFF\xFF\xFFx")}), ErrorKind::kData, "e.txt");
}

TEST(TextSource, NamesFileAndLineOfBadJson) {
  TemporaryFolder folder;
  const std::string good = "{\"text\": \"good\"}\n";
  for (const char* bad : {"{\"text\": \"cut", "[1, 2]", "{\"other\": \"x\"}", "{\"text\": 3}",
                          "nonsense", "{\"text\": \"a\"} more", "{\"text\": \"\\ud800\"}"}) {
    const auto path = folder.write("bad.jsonl", good + bad + "\n" + good).string();
    EXPECT_QUEST_ERROR(texts_of({path}), ErrorKind::kData, "line 2 of " + path);
    TextSource source({path}, {.skip_bad_lines = true});
    EXPECT_EQ(read_all(source).size(), 2u) << bad;
    EXPECT_EQ(source.counts().bad_lines, 1);
  }
}

TEST(TextSource, FindsDamageInCompressedFiles) {
  TemporaryFolder folder;
  const std::string text = big_text();
  for (const bool use_gzip : {true, false}) {
    const std::string name = use_gzip ? "a.gz" : "a.zst";
    const std::string good = use_gzip ? gzip(text) : zstd(text);
    for (size_t size = 0; size < good.size(); size += 1 + good.size() / 100) {
      const auto path = folder.write(name, good.substr(0, size)).string();
      EXPECT_QUEST_ERROR(texts_of({path}), ErrorKind::kData, path);
    }
    const auto last = folder.write(name, good.substr(0, good.size() - 1)).string();
    EXPECT_QUEST_ERROR(texts_of({last}), ErrorKind::kData, fmt::format("byte {}", good.size() - 1));
    std::mt19937 random(3);
    for (int i = 0; i < 100; ++i) {
      std::string bad = good;
      const size_t at = 20 + random() % (bad.size() - 20);
      bad[at] = static_cast<char>(bad[at] ^ (1 << (random() % 8)));
      const auto path = folder.write(name, bad).string();
      EXPECT_QUEST_ERROR(texts_of({path}), ErrorKind::kData, path);
    }
    EXPECT_QUEST_ERROR(texts_of({folder.write(name, "plain")}), ErrorKind::kData,
                       "begins with other");
    const auto garbage = folder.write(name, good + "garbage").string();
    EXPECT_QUEST_ERROR(texts_of({garbage}), ErrorKind::kData, garbage);
  }
}

TEST(TextSource, EmptyFilesHaveNoDocuments) {
  TemporaryFolder folder;
  TextSource source(
      {folder.write("a.txt", ""), folder.write("b.txt", " \n"), folder.write("c.jsonl", ""),
       folder.write("d.gz", gzip("")), folder.write("e.jsonl", "{\"text\": \"\"}\n")},
      {});
  EXPECT_TRUE(read_all(source).empty());
  EXPECT_EQ(source.counts().files, 5);
  EXPECT_EQ(source.counts().empty_documents, 2);
}

TEST(FindTextCut, PrefersSpacesThenLinesThenCharacters) {
  EXPECT_EQ(find_text_cut("short", 10), 5u);
  EXPECT_EQ(find_text_cut("one two three", 9), 7u);
  EXPECT_EQ(find_text_cut("one two  hree", 9), 9u);  // a double space is no place, and 3 too far
  EXPECT_EQ(find_text_cut("abcdef\nhijkl", 9), 7u);
  EXPECT_EQ(find_text_cut("abcdefghijkl", 9), 9u);
  EXPECT_EQ(find_text_cut("abcdefg\xC3\xA4x", 8), 7u);
  EXPECT_EQ(find_text_cut("\xF0\x9F\x98\x80x", 2), 4u);
}

}  // namespace
}  // namespace quest
