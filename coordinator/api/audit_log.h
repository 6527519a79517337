#pragma once
// Who did what: a file with one line of JSON for every call that changes something, and for refused
// ones.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/storage/file_system.h"

namespace anneal {

// One line of the log.
struct AuditEntry {
  absl::Time time;
  // Empty if nobody known called.
  std::string creator, project, role;
  // "ipv4:10.0.0.7:51234"
  std::string peer;
  // "anneal.v1.FineTuningService/CreateJob"
  std::string method;
  // "jobs/01hf...": what was named, or made. May be empty.
  std::string resource;
  // More of what was made. May be empty.
  std::string detail;
  // "OK", "PERMISSION_DENIED", ...
  std::string code;
  // See common/rpc/request_id.h.
  std::string request_id;
  // Refusals that this line stands for.
  int64_t count = 1;
};

// Purpose: appends to a file that is turned over at kMaxBytes, with kOlderFiles older ones kept. A
// line that cannot be written is an error of the service's own log and stops nothing. Owner:
// Coordinator. Thread-safe.
//
// Somebody without a key must not be able to write so much that older lines go: of the calls that
// nobody known has made each host gets kRefusalsAMinute lines, and all hosts together
// kAllRefusalsAMinute. The rest of a minute becomes one line a host with their count (`count`, and
// method, peer and time of the last), written with the first line after that minute, or at the end.
class AuditLog {
 public:
  static constexpr int64_t kMaxBytes = int64_t{64} << 20;
  static constexpr int kOlderFiles = 9;
  static constexpr int kRefusalsAMinute = 5;
  static constexpr int kAllRefusalsAMinute = 60;
  // More than that are counted together.
  static constexpr int kMostHosts = 60;

  // UNAVAILABLE with the path if it cannot be opened.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::string& path, FileSystem& files,
                                                        int64_t max_bytes = kMaxBytes);
  ~AuditLog();

  void Append(const AuditEntry& entry);

 private:
  // What one host was refused in this minute.
  struct Refusals {
    int64_t written = 0;
    int64_t held_back = 0;
    AuditEntry last;
  };

  AuditLog(std::string path, FileSystem& files, int64_t max_bytes)
      : path_(std::move(path)), files_(files), max_bytes_(max_bytes) {}

  // False if the line is only counted.
  bool AdmitRefusal(const AuditEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndMinute() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WriteLine(absl::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Write(absl::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status TurnOver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string path_;
  FileSystem& files_;
  const int64_t max_bytes_;
  absl::Mutex mu_;
  std::unique_ptr<WritableFile> file_ ABSL_GUARDED_BY(mu_);
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  // When the minute began in which these were counted.
  absl::Time minute_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  int64_t refusals_written_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, Refusals> refusals_ ABSL_GUARDED_BY(mu_);  // by host
};

}  // namespace anneal
