#include "coordinator/api/project_limits.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/units.h"
#include "common/rpc/status.h"
#include "coordinator/lifecycle/checkpoints.h"

namespace anneal {
namespace {

constexpr absl::string_view kKeyRequestRate = "KEY_REQUEST_RATE";
constexpr absl::string_view kProjectRequestRate = "PROJECT_REQUEST_RATE";
constexpr absl::string_view kProjectStreams = "PROJECT_STREAMS";
constexpr absl::string_view kProjectUploads = "PROJECT_UPLOADS";
constexpr absl::string_view kProjectStorage = "PROJECT_STORAGE";
constexpr absl::string_view kProjectJobs = "PROJECT_JOBS";
constexpr absl::string_view kFailedAuthenticationRate = "FAILED_AUTHENTICATION_RATE";

// Streams end when their clients say so; a second is soon enough to look again.
constexpr absl::Duration kStreamRetryDelay = absl::Seconds(1);

// Of all that jobs of the project have made and is still there.
int64_t JobBytes(const std::vector<Catalog::Record>& jobs, absl::Time now) {
  int64_t bytes = 0;
  for (const Catalog::Record& record : jobs) {
    bytes += record->job().result().output_bytes();
    if (CheckpointsExpired(*record, now)) continue;
    for (const internal::CheckpointRecord& checkpoint : record->checkpoints())
      bytes += checkpoint.size_bytes();
  }
  return bytes;
}

}  // namespace

LimitMetrics::LimitMetrics(MetricRegistry& registry)
    : refusals(registry, {"anneal_limit_refusals_total",
                          "Calls refused because a key or a project has reached a limit.",
                          {"limit"}}) {
  // A total that is not there before its first event cannot be alerted on.
  for (const absl::string_view reason :
       {kKeyRequestRate, kProjectRequestRate, kProjectStreams, kProjectUploads, kProjectStorage,
        kProjectJobs, kFailedAuthenticationRate}) {
    refusals.Add(0, {absl::AsciiStrToLower(reason)});
  }
}

ProjectLimits::ProjectLimits(const Parts& parts, const LimitOptions& options)
    : parts_(parts), options_(options) {}

absl::Status ProjectLimits::Refuse(absl::string_view reason, absl::string_view message) {
  parts_.metrics.refusals.Increment({absl::AsciiStrToLower(reason)});
  return WithReason(absl::ResourceExhaustedError(message), reason);
}

absl::Duration ProjectLimits::Take(Buckets& buckets, const std::string& name, int rate) {
  if (rate == 0) return absl::ZeroDuration();
  const double full = rate * absl::ToDoubleSeconds(kBurst);
  const absl::Duration now = parts_.clock.MonotonicNow();
  const auto [it, is_new] = buckets.try_emplace(name, Bucket{full, now});
  Bucket& bucket = it->second;
  bucket.tokens = std::min(full, bucket.tokens + rate * absl::ToDoubleSeconds(now - bucket.filled));
  bucket.filled = now;
  if (bucket.tokens < 1) return absl::Seconds((1 - bucket.tokens) / rate);
  bucket.tokens -= 1;
  return absl::ZeroDuration();
}

absl::Status ProjectLimits::AdmitRequest(const Caller& caller) {
  absl::MutexLock lock(&mu_);
  absl::Duration wait = Take(key_buckets_, caller.proof, options_.key_request_rate);
  if (wait > absl::ZeroDuration()) {
    return WithRetryDelay(
        Refuse(kKeyRequestRate,
               absl::StrCat("this key makes more than ", options_.key_request_rate,
                            " requests a second (--max-key-request-rate); make fewer: WatchJob "
                            "tells of changes without being asked")),
        wait);
  }
  wait = Take(project_buckets_, caller.project, options_.project_request_rate);
  if (wait > absl::ZeroDuration()) {
    return WithRetryDelay(
        Refuse(kProjectRequestRate,
               absl::StrCat("project ", caller.project, " makes more than ",
                            options_.project_request_rate,
                            " requests a second (--max-project-request-rate); make fewer")),
        wait);
  }
  return absl::OkStatus();
}

absl::Status ProjectLimits::AdmitUnknown(const std::string& host) {
  const int rate = options_.failed_authentication_rate;
  absl::MutexLock lock(&mu_);
  if (host_buckets_.size() >= kMostHosts && !host_buckets_.contains(host)) {
    // What has had time to fill up is as good as new.
    const absl::Duration now = parts_.clock.MonotonicNow();
    absl::erase_if(host_buckets_, [now](const auto& b) { return now - b.second.filled >= kBurst; });
  }
  const bool is_room = host_buckets_.size() < kMostHosts || host_buckets_.contains(host);
  const absl::Duration wait = Take(host_buckets_, is_room ? host : "others", rate);
  if (wait == absl::ZeroDuration()) return absl::OkStatus();
  return WithRetryDelay(
      Refuse(kFailedAuthenticationRate,
             absl::StrCat("more than ", rate, " calls a second come from ", host,
                          " without a valid API key (--max-failed-authentication-rate); give it a "
                          "valid one")),
      wait);
}

absl::StatusOr<ProjectLimits::Stream> ProjectLimits::OpenStream(const std::string& project) {
  absl::MutexLock lock(&mu_);
  int& open = streams_[project];
  if (options_.project_streams != 0 && open >= options_.project_streams) {
    return WithRetryDelay(
        Refuse(kProjectStreams,
               absl::StrCat("project ", project, " has ", open,
                            " streams open, as many as it may (--max-project-streams); end some")),
        kStreamRetryDelay);
  }
  ++open;
  return Stream(this, project);
}

void ProjectLimits::CloseStream(const std::string& project) {
  absl::MutexLock lock(&mu_);
  if (--streams_[project] == 0) streams_.erase(project);
}

absl::StatusOr<ResourceStore::StoredBytes> ProjectLimits::CountBytes(const std::string& project) {
  return parts_.resources.CountBytes(project, parts_.clock.TimeNow() - kUnfinishedUploadLifetime);
}

absl::Status ProjectLimits::CheckStorage(const std::string& project,
                                         const ResourceStore::StoredBytes& stored,
                                         int64_t more_bytes) {
  const int64_t limit = options_.project_storage_bytes;
  const int64_t held = stored.files + stored.models +
                       JobBytes(parts_.catalog.JobsWithBytes(project), parts_.clock.TimeNow());
  if (limit == 0 || (held < limit && more_bytes <= limit - held)) return absl::OkStatus();
  return Refuse(
      kProjectStorage,
      absl::StrCat(
          "project ", project, " holds ", FormatBytes(held), " of the ", FormatBytes(limit),
          " that it may (--max-project-storage)",
          more_bytes > 0 ? absl::StrCat(", and this needs ", FormatBytes(more_bytes), " more") : "",
          "; delete jobs, files or models"));
}

absl::Status ProjectLimits::AdmitJob(const std::string& project) {
  if (options_.project_jobs == 0) return absl::OkStatus();
  const int64_t live = parts_.catalog.CountLiveJobs(project);
  if (live < options_.project_jobs) return absl::OkStatus();
  return Refuse(kProjectJobs,
                absl::StrCat("project ", project, " has ", live,
                             " jobs that have not ended, as many as it may (--max-project-jobs); "
                             "let some end, or cancel those that nobody needs"));
}

absl::Status ProjectLimits::AdmitStorage(const std::string& project, int64_t more_bytes) {
  if (options_.project_storage_bytes == 0) return absl::OkStatus();
  ANNEAL_ASSIGN_OR_RETURN(const ResourceStore::StoredBytes stored, CountBytes(project));
  return CheckStorage(project, stored, more_bytes);
}

absl::Status ProjectLimits::AdmitUpload(const std::string& project, int64_t more_bytes) {
  if (options_.project_upload_bytes == 0 && options_.project_storage_bytes == 0)
    return absl::OkStatus();
  ANNEAL_ASSIGN_OR_RETURN(const ResourceStore::StoredBytes stored, CountBytes(project));
  const int64_t limit = options_.project_upload_bytes;
  if (limit != 0 && more_bytes > limit - stored.files) {
    return Refuse(kProjectUploads,
                  absl::StrCat("project ", project, " has ", FormatBytes(stored.files), " of the ",
                               FormatBytes(limit),
                               " of files that it may, unfinished uploads included "
                               "(--max-project-uploads), and this one has ",
                               FormatBytes(more_bytes), "; delete files"));
  }
  return CheckStorage(project, stored, more_bytes);
}

}  // namespace anneal
