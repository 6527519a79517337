#include "worker/daemon/task_exit.h"

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/format/json.h"

namespace anneal {
namespace {

constexpr int kUnknown = static_cast<int>(absl::StatusCode::kUnknown);

std::string Describe(const ProcessEnd& end) {
  if (end.lost) return "ended together with its worker";
  if (end.signal == 0)
    return absl::StrCat("exited with status ", end.exit_code, " without saying why");
  const char* name = ::sigabbrev_np(end.signal);
  return absl::StrCat("killed by signal ", end.signal,
                      name == nullptr ? "" : absl::StrCat(" (SIG", name, ")"));
}

}  // namespace

internal::TaskExit MakeTaskExit(const ProcessEnd& end,
                                const absl::StatusOr<protocol::ExitRecord>& record) {
  internal::TaskExit exit;
  exit.set_exit_code(end.exit_code);
  exit.set_signal(end.signal);
  const bool ended_well = end.exit_code == 0 && end.signal == 0;
  // A record of success counts only from a process that then ended well.
  if (record.ok() && (record->status_code != 0 || ended_well)) {
    exit.set_status_code(record->status_code);
    exit.set_reason(record->reason);
    exit.set_message(record->message);
  } else if (!ended_well) {
    exit.set_status_code(kUnknown);
    exit.set_reason(end.lost ? "WORKER_RESTARTED" : end.signal != 0 ? "KILLED" : "EXITED");
    exit.set_message(Describe(end));
  }
  return exit;
}

void SetCause(const absl::Status& status, internal::TaskExit& exit) {
  exit.set_status_code(static_cast<int>(status.code()));
  exit.set_reason(ReasonOf(status));
  exit.set_message(std::string(status.message()));
}

internal::TaskExit MakeRefusal(const absl::Status& status) {
  internal::TaskExit exit;
  exit.set_exit_code(-1);
  SetCause(status, exit);
  if (exit.reason().empty()) exit.set_reason("REFUSED");
  return exit;
}

std::string ReadLogTail(const std::string& log_path) {
  absl::StatusOr<std::string> text = ReadFileTail(log_path, kLogTailBytes);
  if (!text.ok()) return "";
  const size_t line_end = text->find('\n');
  if (text->size() == kLogTailBytes && line_end != std::string::npos) text->erase(0, line_end + 1);
  // Through JSON, which replaces what is not UTF-8; protobuf would refuse to send it.
  absl::StatusOr<Json> clean = ParseJson(DumpJson(*text));
  if (!clean.ok()) return "";
  std::string tail = clean->get<std::string>();
  // Replacement characters are longer than what they replace.
  while (tail.size() > kLogTailBytes) {
    const size_t next = tail.find_first_of('\n', tail.size() - kLogTailBytes);
    tail.erase(0, next == std::string::npos ? tail.size() : next + 1);
  }
  return tail;
}

}  // namespace anneal
