#include "worker/supervisor/report_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"
#include "common/protocol/run_folder_layout.h"

namespace anneal {
namespace {

absl::Status CheckReport(absl::string_view line) {
  ANNEAL_ASSIGN_OR_RETURN(
      Json json, ParseJson(line, {.max_bytes = protocol::kMaxReportBytes, .max_depth = 32}));
  return protocol::ReportFromJson(json).status();
}

}  // namespace

absl::StatusOr<bool> ReportReader::Poll() {
  if (!file_.valid()) {
    file_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file_.valid()) {
      at_end_ = errno == ENOENT;
      if (at_end_) return false;
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path_));
    }
  }
  const size_t old_size = window_.size();
  at_end_ = false;
  std::string text;
  // Starts small, because most calls find a line or two; grows to the limit when a line does not
  // fit.
  size_t size = 16u << 10;
  while (!WindowIsFull()) {
    text.resize(size);
    const ssize_t count = ::pread(file_.get(), text.data(), text.size(), offset_);
    if (count < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path_));
    text.resize(count);
    const size_t taken = TakeLines(text);
    offset_ += taken;
    if (taken > 0) continue;
    if (text.size() < size) {
      at_end_ = !WindowIsFull();
      break;
    }
    size = std::min(2 * size, protocol::kMaxReportBytes + 1);
  }
  return window_.size() != old_size;
}

size_t ReportReader::TakeLines(absl::string_view text) {
  size_t taken = 0;
  while (!WindowIsFull()) {
    const size_t end = text.find('\n', taken);
    if (end == absl::string_view::npos) break;
    TakeLine(text.substr(taken, end - taken));
    taken = end + 1;
  }
  if (taken == 0 && text.size() > protocol::kMaxReportBytes) {
    in_long_line_ = true;
    taken = text.size();
  }
  return taken;
}

void ReportReader::TakeLine(absl::string_view line) {
  const bool too_long = std::exchange(in_long_line_, false);
  if (++lines_ <= acknowledged_) return;
  const absl::Status status =
      too_long ? absl::InvalidArgumentError("the line is too long") : CheckReport(line);
  NumberedReport report{.sequence = lines_, .json = std::string(line)};
  if (!status.ok()) {
    ANNEAL_LOG(ERROR) << "a report cannot be read"
                      << protocol::TaskFieldsOf(path_.substr(0, path_.rfind('/')))
                      << Field("file", path_) << Field("line", lines_)
                      << Field("why", status.message());
    report.json = DumpJson(protocol::ToJson(protocol::Report{
        .issue = protocol::IssueReport{.code = "REPORT_UNREADABLE",
                                       .file = path_,
                                       .message = std::string(status.message().substr(0, 200)),
                                       .line = lines_}}));
  }
  window_bytes_ += report.json.size();
  window_.push_back(std::move(report));
}

void ReportReader::Acknowledge(int64_t sequence) {
  acknowledged_ = std::max(acknowledged_, sequence);
  while (!window_.empty() && window_.front().sequence <= acknowledged_) {
    window_bytes_ -= window_.front().json.size();
    window_.pop_front();
  }
}

}  // namespace anneal
