#include "worker/prepare/line_reader.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/storage/open_beneath.h"

namespace anneal::prepare {

absl::StatusOr<std::unique_ptr<LineReader>> LineReader::Open(const std::string& path,
                                                             size_t max_line_bytes) {
  ANNEAL_ASSIGN_OR_RETURN(UniqueFd fd, OpenRooted(path));
  std::FILE* file = ::fdopen(fd.get(), "rb");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  fd.Release();  // it is the stream's now
  return std::unique_ptr<LineReader>(new LineReader(PlainPath(path), file, max_line_bytes));
}

LineReader::~LineReader() { std::fclose(file_); }

absl::Status LineReader::Fill() {
  begin_ = 0;
  end_ = std::fread(buffer_.data(), 1, buffer_.size(), file_);
  if (end_ == 0 && std::ferror(file_)) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path_));
  }
  at_end_ = end_ == 0;
  bytes_ += static_cast<int64_t>(end_);
  hash_.Update(buffer_.data(), end_);
  return absl::OkStatus();
}

absl::StatusOr<bool> LineReader::NextAny(Line* line) {
  *line = {.number = ++line_number_};
  bool found = false;
  while (true) {
    if (begin_ == end_) {
      ANNEAL_RETURN_IF_ERROR(Fill());
      if (at_end_) return found;
    }
    found = true;
    const char* start = buffer_.data() + begin_;
    const void* stop = std::memchr(start, '\n', end_ - begin_);
    const size_t length = stop == nullptr ? end_ - begin_ : static_cast<const char*>(stop) - start;
    if (!line->too_long) {
      line->too_long = line->text.size() + length > max_line_bytes_;
      if (line->too_long) {
        line->text = std::string();
      } else {
        line->text.append(start, length);
      }
    }
    begin_ += length;
    if (stop != nullptr) {
      ++begin_;
      return true;
    }
  }
}

absl::StatusOr<bool> LineReader::Next(Line* line) {
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, NextAny(line));
    if (!found) return false;
    if (!line->text.empty() && line->text.back() == '\r') line->text.pop_back();
    if (line->too_long || !absl::StripAsciiWhitespace(line->text).empty()) return true;
  }
}

}  // namespace anneal::prepare
