#include "quest/data/file_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>
#include <vector>

#include <zlib.h>
#include <zstd.h>

#include "quest/base/error.h"

namespace quest {

// The undecoded bytes, through a buffer that can be looked into.
class FileReader::RawFile {
 public:
  explicit RawFile(const std::string& path)
      : name_(path == "-" ? "standard input" : path), buffer_(kBufferBytes) {
    if (path == "-") {
      fd_ = STDIN_FILENO;
      return;
    }
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    QUEST_CHECK(fd_ >= 0, ErrorKind::kIo, "cannot open {}: {}", name_, errno_text(errno));
    owned_ = true;
  }
  ~RawFile() {
    if (owned_) ::close(fd_);
  }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  // What is buffered, after reading until there are at least `wanted` bytes or the file ends.
  std::span<const char> peek(size_t wanted) {
    if (end_ - begin_ < wanted && begin_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    while (end_ - begin_ < wanted) {
      const ssize_t count = ::read(fd_, buffer_.data() + end_, buffer_.size() - end_);
      if (count < 0 && errno == EINTR) continue;
      QUEST_CHECK(count >= 0, ErrorKind::kIo, "cannot read {}: {}", name_, errno_text(errno));
      if (count == 0) break;
      end_ += static_cast<size_t>(count);
      bytes_read_ += count;
    }
    return {buffer_.data() + begin_, end_ - begin_};
  }
  void consume(size_t count) { begin_ += count; }

  const std::string& name() const { return name_; }
  int64_t bytes_read() const { return bytes_read_; }
  // Offset in the file of the next byte that peek() shows.
  int64_t offset() const { return bytes_read_ - static_cast<int64_t>(end_ - begin_); }

 private:
  static constexpr size_t kBufferBytes = size_t{256} << 10;

  std::string name_;
  int fd_ = -1;
  bool owned_ = false;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;
  int64_t bytes_read_ = 0;
};

class FileReader::Decoder {
 public:
  virtual ~Decoder() = default;
  virtual size_t read(RawFile& file, std::span<char> out) = 0;
};

class FileReader::Plain final : public Decoder {
 public:
  size_t read(RawFile& file, std::span<char> out) override {
    const std::span<const char> input = file.peek(1);
    const size_t count = std::min(input.size(), out.size());
    std::copy_n(input.begin(), count, out.begin());
    file.consume(count);
    return count;
  }
};

class FileReader::Gzip final : public Decoder {
 public:
  Gzip() {
    constexpr int kGzipFormat = 16;  // added to the window bits: a gzip header is expected
    QUEST_CHECK(inflateInit2(&stream_, MAX_WBITS + kGzipFormat) == Z_OK, ErrorKind::kEnvironment,
                "zlib {} cannot start to decompress", zlibVersion());
  }
  ~Gzip() override { inflateEnd(&stream_); }

  size_t read(RawFile& file, std::span<char> out) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    while (stream_.avail_out == out.size()) {
      if (!in_member_ && !begin_member(file)) return 0;
      const std::span<const char> input = file.peek(1);
      QUEST_CHECK(!input.empty(), ErrorKind::kData,
                  "{} is truncated: its gzip data ends in the middle, at byte {}", file.name(),
                  file.offset());
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
      stream_.avail_in = static_cast<uInt>(input.size());
      const int result = inflate(&stream_, Z_NO_FLUSH);
      file.consume(input.size() - stream_.avail_in);
      QUEST_CHECK(result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR,
                  ErrorKind::kData, "{} is damaged: gzip data near byte {}: {}", file.name(),
                  file.offset(), stream_.msg != nullptr ? stream_.msg : zError(result));
      if (result == Z_STREAM_END) in_member_ = false;
    }
    return out.size() - stream_.avail_out;
  }

 private:
  // False at the file's end. Zeros behind a member are padding, as gzip itself takes them.
  bool begin_member(RawFile& file) {
    std::span<const char> input = file.peek(1);
    while (members_ > 0 && !input.empty() && input[0] == 0) {
      file.consume(1);
      input = file.peek(1);
    }
    if (input.empty()) return false;
    inflateReset(&stream_);
    ++members_;
    in_member_ = true;
    return true;
  }

  z_stream stream_{};
  int64_t members_ = 0;
  bool in_member_ = false;
};

class FileReader::Zstd final : public Decoder {
 public:
  Zstd() : stream_(ZSTD_createDStream()) {
    QUEST_CHECK(stream_ != nullptr, ErrorKind::kEnvironment, "zstd cannot start to decompress");
    // Files made with --long.
    ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, sizeof(void*) == 8 ? 31 : 30);
  }
  ~Zstd() override { ZSTD_freeDStream(stream_); }

  size_t read(RawFile& file, std::span<char> out) override {
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    while (output.pos == 0) {
      const std::span<const char> bytes = file.peek(1);
      if (bytes.empty() && !in_frame_) return 0;
      ZSTD_inBuffer input{bytes.data(), bytes.size(), 0};
      const size_t result = ZSTD_decompressStream(stream_, &output, &input);
      file.consume(input.pos);
      QUEST_CHECK(!ZSTD_isError(result), ErrorKind::kData,
                  "{} is damaged: zstd data near byte {}: {}", file.name(), file.offset(),
                  ZSTD_getErrorName(result));
      in_frame_ = result != 0;
      QUEST_CHECK(!(bytes.empty() && in_frame_ && output.pos == 0), ErrorKind::kData,
                  "{} is truncated: its zstd data ends in the middle, at byte {}", file.name(),
                  file.offset());
    }
    return output.pos;
  }

 private:
  ZSTD_DStream* stream_;
  bool in_frame_ = false;
};

FileReader::FileReader(const std::string& path) : file_(std::make_unique<RawFile>(path)) {
  const std::span<const char> front = file_->peek(4);
  const std::string_view magic(front.data(), front.size());
  const bool gzip = magic.starts_with("\x1f\x8b");
  const bool zstd = magic.starts_with("\x28\xb5\x2f\xfd");
  QUEST_CHECK(gzip || !path.ends_with(".gz"), ErrorKind::kData,
              "{} is no gzip file: it begins with other bytes", file_->name());
  QUEST_CHECK(zstd || !path.ends_with(".zst"), ErrorKind::kData,
              "{} is no zstd file: it begins with other bytes", file_->name());
  if (gzip) {
    decoder_ = std::make_unique<Gzip>();
  } else if (zstd) {
    decoder_ = std::make_unique<Zstd>();
  } else {
    decoder_ = std::make_unique<Plain>();
  }
}

FileReader::~FileReader() = default;

size_t FileReader::read(std::span<char> out) { return decoder_->read(*file_, out); }

int64_t FileReader::file_bytes_read() const { return file_->bytes_read(); }

}  // namespace quest
