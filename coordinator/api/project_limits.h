#pragma once
// What one caller and one project may use of the service, so that none of them crowds out others.

#include <cstdint>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/metrics/metrics.h"
#include "common/rpc/authentication.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/resource_store.h"

namespace anneal {

// Each is a flag of the coordinator; 0 = no limit.
struct LimitOptions {
  // Calls a second that one key or certificate, and that all of a project, may keep up. Bursts of
  // kBurst worth of them pass.
  int key_request_rate = 100;
  int project_request_rate = 500;
  // Watched jobs, followed logs, uploads and downloads open at a time.
  int project_streams = 256;
  // Up- and downloads under way at a time (TransferPool), of 32 in all.
  int project_transfers = 8;
  // Files of a project, uploads that are not finished included.
  int64_t project_upload_bytes = int64_t{1} << 40;
  // Files, models, checkpoints and outputs of a project.
  int64_t project_storage_bytes = int64_t{10} << 40;
  // Calls a second without a valid key or certificate that one host may keep up.
  int failed_authentication_rate = 10;
  // Jobs of a project that have not ended; each of them is held in memory.
  int project_jobs = 10'000;
};

struct LimitMetrics {
  explicit LimitMetrics(MetricRegistry& registry);

  Counter refusals;  // {limit}
};

// Purpose: decides whether a project may have more. Every refusal is RESOURCE_EXHAUSTED, names the
// limit's flag, has a reason of its own and is counted; with a retry time where waiting helps.
// Owner: Coordinator. Thread-safe.
//
// Bytes are summed from the catalog at each question, not kept: a sum of our own could only become
// wrong. What a running job will write is not known before; so a project that has reached its
// limit starts nothing new, and what runs goes on.
class ProjectLimits {
 public:
  // How long a caller may save up requests it did not make.
  static constexpr absl::Duration kBurst = absl::Seconds(5);
  // So long the bytes of an upload that nobody goes on with may lie in the storage root.
  static constexpr absl::Duration kUnfinishedUploadLifetime = absl::Hours(72);

  struct Parts {
    ResourceStore& resources;
    const Catalog& catalog;
    Clock& clock;
    LimitMetrics& metrics;
  };
  ProjectLimits(const Parts& parts, const LimitOptions& options);

  // Counts one call. Reasons KEY_REQUEST_RATE and PROJECT_REQUEST_RATE.
  absl::Status AdmitRequest(const Caller& caller);
  // Counts one call from this host (PeerHost) that nobody known has made. Reason
  // FAILED_AUTHENTICATION_RATE. Valid keys from the same host, which may be a proxy, are not held
  // up: nobody can lock others out.
  absl::Status AdmitUnknown(const std::string& host);

  // The right of one stream to be open. Given back by its destructor; ProjectLimits outlives it.
  class Stream {
   public:
    Stream() = default;
    Stream(Stream&& other) noexcept
        : limits_(std::exchange(other.limits_, nullptr)), project_(std::move(other.project_)) {}
    Stream& operator=(Stream&& other) noexcept {
      std::swap(limits_, other.limits_);
      std::swap(project_, other.project_);
      return *this;
    }
    ~Stream() {
      if (limits_ != nullptr) limits_->CloseStream(project_);
    }

   private:
    friend class ProjectLimits;
    Stream(ProjectLimits* limits, std::string project)
        : limits_(limits), project_(std::move(project)) {}
    ProjectLimits* limits_ = nullptr;
    std::string project_;
  };
  // Reason PROJECT_STREAMS.
  absl::StatusOr<Stream> OpenStream(const std::string& project);

  // Whether the project may have one more job that has not ended. Reason PROJECT_JOBS. Requests
  // that are under way at the same time may go beyond the limit by as many as they are.
  absl::Status AdmitJob(const std::string& project);

  // Whether the project may store so much more, or begin to store what nobody knows yet (0). Reads
  // the catalog. Reason PROJECT_STORAGE.
  absl::Status AdmitStorage(const std::string& project, int64_t more_bytes);
  // The same for a file that is to be uploaded. Reason PROJECT_UPLOADS too.
  absl::Status AdmitUpload(const std::string& project, int64_t more_bytes);

 private:
  // Requests that may still be made now.
  struct Bucket {
    double tokens = 0;
    absl::Duration filled;
  };
  using Buckets = absl::flat_hash_map<std::string, Bucket>;
  // Hosts that are told apart; more than these share one bucket.
  static constexpr size_t kMostHosts = 4096;

  // Takes a token, or says how long until there is one (zero = taken).
  absl::Duration Take(Buckets& buckets, const std::string& name, int rate)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CloseStream(const std::string& project);
  absl::StatusOr<ResourceStore::StoredBytes> CountBytes(const std::string& project);
  absl::Status CheckStorage(const std::string& project, const ResourceStore::StoredBytes& stored,
                            int64_t more_bytes);
  absl::Status Refuse(absl::string_view reason, absl::string_view message);

  const Parts parts_;
  const LimitOptions options_;

  absl::Mutex mu_;
  // One for each key that has called and each project: both are made by admins, so there are not
  // many.
  Buckets key_buckets_ ABSL_GUARDED_BY(mu_);
  Buckets project_buckets_ ABSL_GUARDED_BY(mu_);
  // Anybody adds to these, so they are bounded.
  Buckets host_buckets_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, int> streams_ ABSL_GUARDED_BY(mu_);  // by project
};

}  // namespace anneal
