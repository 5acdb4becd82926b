#include "quest/data/text_source.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/white_space.h"
#include "quest/data/file_reader.h"
#include "quest/data/input_files.h"
#include "quest/text/utf8.h"

namespace quest {
namespace {

constexpr size_t kBlockBytes = size_t{256} << 10;
constexpr size_t kMaxLineBytes = size_t{1} << 30;
constexpr int64_t kMinChunkBytes = 16;
constexpr int64_t kMaxChunkBytes = int64_t{64} << 20;
// Of fewer bytes one cannot say that a file is no text.
constexpr int64_t kJudgedBytes = 4096;

bool is_blank(std::string_view text) {
  return text.find_first_not_of(kWhiteSpace) == std::string_view::npos;
}

// A growing string whose front is taken away piece by piece.
class TextBuffer {
 public:
  std::string_view view() const { return std::string_view(text_).substr(begin_); }
  void append(std::string_view text) {
    if (begin_ > 0) {
      text_.erase(0, begin_);
      begin_ = 0;
    }
    text_ += text;
  }
  std::string take(size_t count) {
    std::string front = text_.substr(begin_, count);
    begin_ += count;
    return front;
  }
  void clear() {
    text_.clear();
    begin_ = 0;
  }

 private:
  std::string text_;
  size_t begin_ = 0;
};

}  // namespace

size_t find_text_cut(std::string_view text, size_t limit) {
  if (text.size() <= limit) return text.size();
  const auto blank = [&](size_t i) { return kWhiteSpace.find(text[i]) != std::string_view::npos; };
  const size_t earliest = std::max<size_t>(1, limit / 2);
  for (size_t i = std::min(limit, text.size() - 2); i >= earliest; --i) {
    if (text[i] == ' ' && !blank(i - 1) && !blank(i + 1)) return i;
  }
  for (size_t i = limit; i >= earliest; --i) {
    if (text[i - 1] == '\n') return i;
  }
  const size_t cut = limit - incomplete_utf8_suffix(text.substr(0, limit));
  return cut > 0 ? cut : static_cast<size_t>(std::max(1, utf8_character_length(text)));
}

struct TextSource::Impl {
  Impl(const std::vector<std::string>& inputs, TextSourceOptions given)
      : options(std::move(given)), block(kBlockBytes) {
    QUEST_CHECK(options.stdin_format == "txt" || options.stdin_format == "jsonl", ErrorKind::kUsage,
                "unknown format '{}' of standard input, allowed are txt and jsonl",
                options.stdin_format);
    QUEST_CHECK(
        options.max_chunk_bytes >= kMinChunkBytes && options.max_chunk_bytes <= kMaxChunkBytes,
        ErrorKind::kUsage, "chunks of {} bytes are out of range, allowed are {} to {}",
        options.max_chunk_bytes, kMinChunkBytes, kMaxChunkBytes);
    files = find_input_files(inputs);
    for (const std::string& file : files) {
      std::error_code error;
      const auto size = file == "-" ? 0 : std::filesystem::file_size(file, error);
      if (!error) total_bytes += static_cast<int64_t>(size);
    }
    if (std::find(files.begin(), files.end(), "-") != files.end()) total_bytes = 0;
  }

  void open_next_file();
  void close_file();
  bool fill();
  bool next_raw_chunk(TextChunk& chunk);
  bool next_text_chunk(TextChunk& chunk);
  bool next_jsonl_chunk(TextChunk& chunk);
  bool next_line(std::string& line);
  std::optional<std::string> parse_line(std::string line);
  void count_replaced(int64_t replaced, int64_t bytes);
  void take_chunk(TextBuffer& from, size_t size, bool ends, size_t skip, TextChunk& chunk);

  TextSourceOptions options;
  std::vector<std::string> files;
  int64_t total_bytes = 0;
  TextCounts counts;

  // The open file.
  std::unique_ptr<FileReader> reader;
  std::string name;
  size_t next_file = 0;
  int64_t closed_file_bytes = 0;
  bool jsonl = false;
  bool at_end = false;
  bool at_front = true;
  std::vector<char> block;
  TextBuffer buffer;        // plain text: sanitized; .jsonl: raw
  std::string incomplete;   // plain text: a character begun in the last block
  int64_t line_number = 0;  // .jsonl
  TextBuffer document;      // .jsonl: what is left of a long document
  bool inside_document = false;
  int64_t file_replaced = 0, file_text_bytes = 0;
};

void TextSource::Impl::open_next_file() {
  const std::string& file = files[next_file++];
  name = file == "-" ? "standard input" : file;
  jsonl = file == "-" ? options.stdin_format == "jsonl" : is_jsonl_name(file);
  reader = std::make_unique<FileReader>(file);
  at_end = false;
  at_front = true;
  buffer.clear();
  incomplete.clear();
  line_number = 0;
  document.clear();
  inside_document = false;
  file_replaced = 0;
  file_text_bytes = 0;
  ++counts.files;
}

void TextSource::Impl::close_file() {
  closed_file_bytes += reader->file_bytes_read();
  reader.reset();
}

void TextSource::Impl::count_replaced(int64_t replaced, int64_t bytes) {
  counts.replaced_bytes += replaced;
  file_replaced += replaced;
  file_text_bytes += bytes;
  QUEST_CHECK(file_replaced * 10 <= file_text_bytes || (file_text_bytes < kJudgedBytes && !at_end),
              ErrorKind::kData,
              "{} is no UTF-8 text: {} of its first {} bytes are part of no character; convert it "
              "(iconv -t UTF-8) or leave it out",
              name, file_replaced, file_text_bytes);
}

// Reads one more block into the buffer; false at the file's end.
bool TextSource::Impl::fill() {
  if (at_end) return false;
  const size_t count = reader->read(block);
  std::string_view bytes(block.data(), count);
  at_end = count == 0;
  if (at_front && !at_end) {
    QUEST_CHECK(!bytes.starts_with("\xFF\xFE") && !bytes.starts_with("\xFE\xFF"), ErrorKind::kData,
                "{} is UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8", name);
    if (bytes.starts_with("\xEF\xBB\xBF")) bytes.remove_prefix(3);
    at_front = false;
  }
  if (jsonl) {
    buffer.append(bytes);
    return !at_end;
  }
  std::string text = std::exchange(incomplete, {});
  text += bytes;
  if (!at_end) {
    const size_t held_back = incomplete_utf8_suffix(text);
    incomplete = text.substr(text.size() - held_back);
    text.resize(text.size() - held_back);
  }
  const auto size = static_cast<int64_t>(text.size());
  count_replaced(sanitize_utf8(text), size);
  buffer.append(text);
  return !at_end;
}

// Takes the front of `from` as the next chunk of the current document, and then drops `skip` bytes.
void TextSource::Impl::take_chunk(TextBuffer& from, size_t size, bool ends, size_t skip,
                                  TextChunk& chunk) {
  chunk.text = from.take(size);
  (void)from.take(skip);
  chunk.begins_document = !inside_document;
  chunk.ends_document = ends;
  inside_document = !ends;
}

bool TextSource::Impl::next_text_chunk(TextChunk& chunk) {
  const std::string& separator = options.document_separator;
  const auto limit = static_cast<size_t>(options.max_chunk_bytes);
  size_t searched = 0;
  while (true) {
    const std::string_view text = buffer.view();
    const size_t end = separator.empty() ? std::string_view::npos : text.find(separator, searched);
    if (end != std::string_view::npos && end <= limit) {
      take_chunk(buffer, end, true, separator.size(), chunk);
      return true;
    }
    // So much that what is left behind a cut cannot begin with a separator.
    if (text.size() > limit + separator.size()) {
      take_chunk(buffer, find_text_cut(text, limit), false, 0, chunk);
      return true;
    }
    if (at_end && end == std::string_view::npos) {
      if (text.empty()) return false;
      const size_t size = find_text_cut(text, limit);
      take_chunk(buffer, size, size == text.size(), 0, chunk);
      return true;
    }
    searched = text.size() - std::min(text.size(), separator.size());
    fill();
  }
}

bool TextSource::Impl::next_line(std::string& line) {
  size_t searched = 0;
  while (true) {
    const std::string_view text = buffer.view();
    const size_t end = text.find('\n', searched);
    if (end != std::string_view::npos) {
      line = buffer.take(end);
      (void)buffer.take(1);
      ++line_number;
      return true;
    }
    QUEST_CHECK(text.size() <= kMaxLineBytes, ErrorKind::kData,
                "line {} of {} has more than {} bytes; is it a .jsonl file?", line_number + 1, name,
                kMaxLineBytes);
    if (at_end) {
      line = buffer.take(text.size());
      ++line_number;
      return !line.empty();
    }
    searched = text.size();
    fill();
  }
}

// The document of one line; nothing for a bad line that is to be skipped.
std::optional<std::string> TextSource::Impl::parse_line(std::string line) {
  const auto size = static_cast<int64_t>(line.size());
  count_replaced(sanitize_utf8(line), size);
  const std::string where = fmt::format("line {} of {}", line_number, name);
  try {
    const Json object = parse_json(line, where);
    return json_get<std::string>(object, options.json_field, where);
  } catch (const Error&) {
    if (!options.skip_bad_lines) throw;
    ++counts.bad_lines;
    return std::nullopt;
  }
}

bool TextSource::Impl::next_jsonl_chunk(TextChunk& chunk) {
  const auto limit = static_cast<size_t>(options.max_chunk_bytes);
  while (document.view().empty()) {
    std::string line;
    if (!next_line(line)) return false;
    if (is_blank(line)) continue;
    std::optional<std::string> text = parse_line(std::move(line));
    if (!text) continue;
    if (text->empty()) {
      ++counts.empty_documents;
      continue;
    }
    document.clear();
    document.append(*text);
  }
  const std::string_view text = document.view();
  const size_t size = find_text_cut(text, limit);
  take_chunk(document, size, size == text.size(), 0, chunk);
  return true;
}

// The next chunk of the open file, blank documents included.
bool TextSource::Impl::next_raw_chunk(TextChunk& chunk) {
  return jsonl ? next_jsonl_chunk(chunk) : next_text_chunk(chunk);
}

TextSource::TextSource(const std::vector<std::string>& inputs, TextSourceOptions options)
    : impl_(std::make_unique<Impl>(inputs, std::move(options))) {}
TextSource::~TextSource() = default;

bool TextSource::next(TextChunk& chunk) {
  Impl& impl = *impl_;
  while (true) {
    if (impl.reader == nullptr) {
      if (impl.next_file == impl.files.size()) return false;
      impl.open_next_file();
    }
    if (!impl.next_raw_chunk(chunk)) {
      impl.close_file();
      continue;
    }
    if (chunk.begins_document && chunk.ends_document && is_blank(chunk.text)) {
      ++impl.counts.empty_documents;
      continue;
    }
    if (chunk.begins_document) ++impl.counts.documents;
    impl.counts.text_bytes += static_cast<int64_t>(chunk.text.size());
    return true;
  }
}

const TextCounts& TextSource::counts() const { return impl_->counts; }
const std::vector<std::string>& TextSource::files() const { return impl_->files; }
int64_t TextSource::total_file_bytes() const { return impl_->total_bytes; }

int64_t TextSource::file_bytes_read() const {
  return impl_->closed_file_bytes + (impl_->reader ? impl_->reader->file_bytes_read() : 0);
}

}  // namespace quest
