#pragma once
// The lines of a data file, with little memory however the file is made.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/sha256.h"

namespace anneal::prepare {

struct Line {
  int64_t number = 0;     // from 1, as editors count
  std::string text;       // without its line end
  bool too_long = false;  // longer than the limit: then `text` is empty
};

// Guarded by its caller.
class LineReader {
 public:
  // A regular file, as OpenRooted finds it; errors as there, with the path.
  static absl::StatusOr<std::unique_ptr<LineReader>> Open(const std::string& path,
                                                          size_t max_line_bytes);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line that is not blank; false at the end.
  absl::StatusOr<bool> Next(Line* line);

  // Once Next has returned false: size and SHA-256 of the whole file as it was read.
  int64_t bytes() const { return bytes_; }
  std::string HexDigest() { return hash_.HexDigest(); }

 private:
  LineReader(std::string path, std::FILE* file, size_t max_line_bytes)
      : path_(std::move(path)),
        file_(file),
        max_line_bytes_(max_line_bytes),
        buffer_(1 << 18, '\0') {}
  absl::Status Fill();
  // Reads up to the next line end into `line`; false at the end of the file.
  absl::StatusOr<bool> NextAny(Line* line);

  const std::string path_;
  std::FILE* const file_;
  const size_t max_line_bytes_;
  std::string buffer_;
  size_t begin_ = 0, end_ = 0;  // unread part of buffer_
  bool at_end_ = false;
  int64_t bytes_ = 0;
  int64_t line_number_ = 0;
  Sha256 hash_;
};

}  // namespace anneal::prepare
