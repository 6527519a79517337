#include "coordinator/api/audit_log.h"

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/rpc/peer_address.h"

namespace anneal {
namespace {

constexpr absl::Duration kMinute = absl::Minutes(1);
// A caller may send anything.
constexpr size_t kMaxFieldBytes = 200;

std::string OlderFile(const std::string& path, int age) {
  return age == 0 ? path : absl::StrCat(path, ".", age);
}

std::string LineOf(const AuditEntry& entry) {
  Json json = Json::object();
  json["time"] = absl::FormatTime(absl::RFC3339_full, entry.time, absl::UTCTimeZone());
  json["creator"] = entry.creator;
  json["project"] = entry.project;
  json["role"] = entry.role;
  json["peer"] = entry.peer;
  json["method"] = entry.method.substr(0, kMaxFieldBytes);
  json["resource"] = entry.resource.substr(0, kMaxFieldBytes);
  json["code"] = entry.code;
  if (!entry.request_id.empty()) json["request_id"] = entry.request_id;
  if (!entry.detail.empty()) json["detail"] = entry.detail.substr(0, kMaxFieldBytes);
  if (entry.count > 1) json["count"] = entry.count;
  return absl::StrCat(DumpJson(json), "\n");
}

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const std::string& path, FileSystem& files,
                                                         int64_t max_bytes) {
  std::unique_ptr<AuditLog> log(new AuditLog(path, files, max_bytes));
  absl::MutexLock lock(&log->mu_);
  if (const absl::StatusOr<FileInfo> info = files.Stat(path); info.ok())
    log->bytes_ = info->size_bytes;
  ANNEAL_ASSIGN_OR_RETURN(log->file_, files.OpenForAppend(path, log->bytes_));
  return log;
}

AuditLog::~AuditLog() {
  absl::MutexLock lock(&mu_);
  EndMinute();
}

void AuditLog::Append(const AuditEntry& entry) {
  // Calls that end at the same time wait for the writing only.
  const std::string line = LineOf(entry);
  absl::MutexLock lock(&mu_);
  // Also when the clock was set back: the count must not wait for it to come here again.
  if (entry.time >= minute_ + kMinute || entry.time < minute_ - kMinute) {
    EndMinute();
    minute_ = entry.time;
  }
  if (entry.creator.empty() && !AdmitRefusal(entry)) return;
  WriteLine(line);
}

bool AuditLog::AdmitRefusal(const AuditEntry& entry) {
  std::string host = PeerHost(entry.peer);
  if (refusals_.size() >= kMostHosts && refusals_.count(host) == 0) host = "others";
  Refusals& refusals = refusals_[host];
  if (refusals.written < kRefusalsAMinute && refusals_written_ < kAllRefusalsAMinute) {
    ++refusals.written;
    ++refusals_written_;
    return true;
  }
  ++refusals.held_back;
  refusals.last = entry;
  return false;
}

void AuditLog::EndMinute() {
  for (auto& [host, refusals] : refusals_) {
    if (refusals.held_back == 0) continue;
    refusals.last.count = refusals.held_back;
    WriteLine(LineOf(refusals.last));
  }
  refusals_.clear();
  refusals_written_ = 0;
}

void AuditLog::WriteLine(absl::string_view line) {
  if (absl::Status status = Write(line); !status.ok())
    ANNEAL_LOG(ERROR) << "the audit log cannot be written" << Field("why", status.message());
}

absl::Status AuditLog::TurnOver() {
  file_.reset();
  for (int age = kOlderFiles; age > 0; --age) {
    const std::string younger = OlderFile(path_, age - 1);
    if (!files_.Stat(younger).ok()) continue;
    ANNEAL_RETURN_IF_ERROR(files_.Rename(younger, OlderFile(path_, age)));
  }
  bytes_ = 0;
  return absl::OkStatus();
}

absl::Status AuditLog::Write(absl::string_view line) {
  if (bytes_ + static_cast<int64_t>(line.size()) > max_bytes_) ANNEAL_RETURN_IF_ERROR(TurnOver());
  if (file_ == nullptr) {
    ANNEAL_ASSIGN_OR_RETURN(file_, files_.OpenForAppend(path_, bytes_));
  }
  bytes_ += static_cast<int64_t>(line.size());
  return file_->Append(line);
}

}  // namespace anneal
