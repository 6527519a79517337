#pragma once
// What a FakeCoordinator keeps, for its own sources.

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/random.h"
#include "tools/anneal/testing/fake_coordinator.h"

namespace anneal::cli {

struct FakeCoordinator::State {
  mutable absl::Mutex mu;
  SeededRandom random{7};
  int64_t next_id ABSL_GUARDED_BY(mu) = 0;
  std::deque<v1::Job> jobs ABSL_GUARDED_BY(mu);  // newest first
  std::vector<v1::CreateJobRequest> created ABSL_GUARDED_BY(mu);
  int create_calls ABSL_GUARDED_BY(mu) = 0;
  int lost_create_answers ABSL_GUARDED_BY(mu) = 0;
  std::deque<WatchScript> scripts ABSL_GUARDED_BY(mu);
  std::vector<v1::WatchJobRequest> watch_requests ABSL_GUARDED_BY(mu);
  std::function<void()> on_idle_watch ABSL_GUARDED_BY(mu);
  std::vector<v1::File> files ABSL_GUARDED_BY(mu);
  std::map<std::string, std::string> contents ABSL_GUARDED_BY(mu);
  std::map<std::string, std::string> uploads ABSL_GUARDED_BY(mu);
  std::optional<int64_t> break_upload_after ABSL_GUARDED_BY(mu);
  int64_t uploaded_bytes ABSL_GUARDED_BY(mu) = 0;
  std::vector<v1::ImportModelRequest> imports ABSL_GUARDED_BY(mu);
  std::map<std::string, std::map<std::string, std::string>> artifacts ABSL_GUARDED_BY(mu);
  bool damage_artifacts ABSL_GUARDED_BY(mu) = false;
  absl::Duration clock_ahead ABSL_GUARDED_BY(mu);
  std::optional<v1::CheckFleetResponse> fleet_checks ABSL_GUARDED_BY(mu);
  std::deque<LogScript> log_scripts ABSL_GUARDED_BY(mu);
  std::vector<v1::ReadJobLogRequest> log_requests ABSL_GUARDED_BY(mu);
  std::set<int> lost_logs ABSL_GUARDED_BY(mu);
  std::function<void(v1::Job&)> on_get_job ABSL_GUARDED_BY(mu);
  int workers ABSL_GUARDED_BY(mu) = 1;

  std::string NewId() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return NewUlid(absl::FromUnixMillis(1'700'000'000'000 + ++next_id), random);
  }
  v1::Job* Find(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const auto found = std::find_if(jobs.begin(), jobs.end(),
                                    [&](const v1::Job& job) { return job.name() == name; });
    return found == jobs.end() ? nullptr : &*found;
  }
};

}  // namespace anneal::cli
