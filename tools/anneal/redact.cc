#include "tools/anneal/redact.h"

#include <string>

namespace anneal::cli {
namespace {

constexpr char kBadData[] = "BAD_DATA";
constexpr char kLeftOut[] = "(left out: it may quote the data)";

// "3 errors in the data; the first: ..." -> "3 errors in the data; (left out ...)".
void CutAfterCount(std::string* message) {
  const size_t end = message->find(';');
  if (end != std::string::npos) *message = message->substr(0, end + 2) + kLeftOut;
}

void LeaveDataOut(v1::Issue& issue) {
  if (issue.file().empty()) return;
  issue.set_message(kLeftOut);
  issue.clear_field();
}

}  // namespace

void LeaveDataOut(v1::Job& job) {
  for (v1::Issue& issue : *job.mutable_data()->mutable_issues()) LeaveDataOut(issue);
  if (job.state_reason() != kBadData) return;
  CutAfterCount(job.mutable_state_message());
  if (job.has_error()) CutAfterCount(job.mutable_error()->mutable_message());
}

void LeaveDataOut(v1::JobEvent& event) {
  if (event.has_issue() && !event.issue().file().empty()) {
    event.set_message(kLeftOut);
    LeaveDataOut(*event.mutable_issue());
  }
  if (event.has_state_change() && event.state_change().reason() == kBadData)
    CutAfterCount(event.mutable_message());
}

}  // namespace anneal::cli
