// The bytes of a file or of standard input, decompressed while they are read.
//
// Gzip (also of several members) and zstd (also of several frames) are recognized by their first
// bytes; a file that is named .gz or .zst and is something else is an error. Memory: about 0.5 MB,
// for zstd the window that the file asks for. Errors name the file: kIo if it cannot be read, kData
// with the byte if its compressed data is damaged or ends too early. Not thread safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace quest {

class FileReader {
 public:
  // "-" is standard input.
  explicit FileReader(const std::string& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  // Fills a front part of out and returns its length; 0 only at the end.
  size_t read(std::span<char> out);
  // Bytes read from the disk so far.
  int64_t file_bytes_read() const;

 private:
  class Decoder;
  class Plain;
  class Gzip;
  class Zstd;
  class RawFile;
  std::unique_ptr<RawFile> file_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace quest
