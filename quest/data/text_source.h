// Documents out of text files, as a stream with bounded memory.
//
// Inputs: files, folders (all text files below, sorted by path), globs ("data/*.jsonl.zst") and "-"
// for standard input. Formats, by name, each also as .gz or .zst:
//  * .jsonl, .ndjson: one document per line, in the field "text" (option);
//  * anything else: UTF-8 text. A file is one document, or several if a document separator is set.
// In folders only .txt, .text, .md, .jsonl, .ndjson (also .gz, .zst) are taken.
// A document above max_chunk_bytes comes in several chunks, cut right before a single space between
// words where possible (so that the cut changes no token, Tokenizer::encode_continuation), else
// after a line, else between two characters. Text comes out as well-formed UTF-8: a byte order mark
// is dropped, ill-formed bytes become U+FFFD and are counted; a file with more than a tenth of them
// is an error. Documents of nothing but whitespace are skipped and counted. Memory: a few chunks,
// and of .jsonl the longest line (at most 1 GiB).
//
//   TextSource source({"corpus/", "-"}, {});
//   for (TextChunk chunk; source.next(chunk);) { ... chunk.text ... }
//
// Errors: kIo for missing or unreadable inputs, kData for content (truncated or damaged .gz and
// .zst with the byte, bad JSON with the line, UTF-16), all with the file's name. Not thread safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

struct TextSourceOptions {
  std::string json_field = "text";
  std::string document_separator =
      {};                            // of plain text, e.g. "\n\n\n" or "<|endoftext|>"; empty: none
  std::string stdin_format = "txt";  // "txt" or "jsonl"
  int64_t max_chunk_bytes = 256 << 10;
  bool skip_bad_lines = false;  // .jsonl: count and skip a bad line instead of failing
};

struct TextChunk {
  std::string text = {};  // never empty
  bool begins_document = true;
  bool ends_document = true;
};

struct TextCounts {
  int64_t files = 0;
  int64_t documents = 0;        // handed out
  int64_t empty_documents = 0;  // skipped
  int64_t bad_lines = 0;        // skipped
  int64_t replaced_bytes = 0;   // that were no UTF-8
  int64_t text_bytes = 0;       // handed out
};

class TextSource {
 public:
  // Finds all files at once, so that a wrong name is an error before any work. A file that is named
  // twice is read once.
  TextSource(const std::vector<std::string>& inputs, TextSourceOptions options);
  ~TextSource();
  TextSource(const TextSource&) = delete;
  TextSource& operator=(const TextSource&) = delete;

  bool next(TextChunk& chunk);  // false at the end

  const TextCounts& counts() const;
  const std::vector<std::string>& files() const;  // in reading order; "-" is standard input
  int64_t total_file_bytes() const;               // on disk, 0 if standard input is among them
  int64_t file_bytes_read() const;                // of those

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Where to cut a text that must be shortened to at most limit bytes: right before a single space
// between words, else after a newline, else between two characters. At least 1, at most limit (or
// the first character's length if that is more).
size_t find_text_cut(std::string_view text, size_t limit);

}  // namespace quest
