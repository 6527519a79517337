#pragma once
// Who did what: one line of JSON for every call that changes something, and for every refused one.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/rpc/authentication.h"
#include "common/storage/file_system.h"
#include "grpcpp/support/server_interceptor.h"

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
  // "OK", "PERMISSION_DENIED", ...
  std::string code;
  // See common/rpc/request_id.h.
  std::string request_id;
};

// Purpose: appends to a file that is turned over at kMaxBytes, with one older one kept. A line that
// cannot be written is an error of the service's own log and stops nothing. Owner: Coordinator.
// Thread-safe.
class AuditLog {
 public:
  static constexpr int64_t kMaxBytes = int64_t{64} << 20;

  // UNAVAILABLE with the path if it cannot be opened.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::string& path, FileSystem& files);

  void Append(const AuditEntry& entry);

 private:
  AuditLog(std::string path, FileSystem& files) : path_(std::move(path)), files_(files) {}

  absl::Status Write(absl::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string path_;
  FileSystem& files_;
  absl::Mutex mu_;
  std::unique_ptr<WritableFile> file_ ABSL_GUARDED_BY(mu_);
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

// Watches the calls of a server. Owned by the gRPC server; what it refers to must outlive it.
// Thread-safe.
class AuditInterceptorFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  AuditInterceptorFactory(AuditLog& log, const Authenticator& authenticator, Clock& clock)
      : log_(log), authenticator_(authenticator), clock_(clock) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  AuditLog& log_;
  const Authenticator& authenticator_;
  Clock& clock_;
};

}  // namespace anneal
