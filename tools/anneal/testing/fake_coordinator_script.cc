// What tests tell a FakeCoordinator, and ask it.

#include <utility>

#include "common/base/status.h"
#include "tools/anneal/testing/fake_coordinator_state.h"

namespace anneal::cli {

v1::Job FakeCoordinator::AddJob(const std::string& name, const std::string& display_name,
                                v1::JobState state) {
  v1::Job job;
  job.set_name(name);
  job.set_state(state);
  job.mutable_resolved()->mutable_spec()->set_display_name(display_name);
  absl::MutexLock lock(&state_->mu);
  state_->jobs.push_front(job);
  return job;
}

v1::Job FakeCoordinator::GetJob(const std::string& name) const {
  absl::MutexLock lock(&state_->mu);
  const v1::Job* job = state_->Find(name);
  ANNEAL_CHECK(job != nullptr);
  return *job;
}

void FakeCoordinator::AddLogScript(LogScript script) {
  absl::MutexLock lock(&state_->mu);
  state_->log_scripts.push_back(std::move(script));
}

std::vector<v1::ReadJobLogRequest> FakeCoordinator::log_requests() const {
  absl::MutexLock lock(&state_->mu);
  return state_->log_requests;
}

void FakeCoordinator::LoseLogs(const std::set<int>& ranks) {
  absl::MutexLock lock(&state_->mu);
  state_->lost_logs = ranks;
}

void FakeCoordinator::ChangeJob(const std::string& name,
                                const std::function<void(v1::Job&)>& change) {
  absl::MutexLock lock(&state_->mu);
  v1::Job* job = state_->Find(name);
  ANNEAL_CHECK(job != nullptr);
  change(*job);
}

void FakeCoordinator::OnGetJob(std::function<void(v1::Job&)> change) {
  absl::MutexLock lock(&state_->mu);
  state_->on_get_job = std::move(change);
}

void FakeCoordinator::SetWorkers(int count) {
  absl::MutexLock lock(&state_->mu);
  state_->workers = count;
}

std::vector<v1::CreateJobRequest> FakeCoordinator::created() const {
  absl::MutexLock lock(&state_->mu);
  return state_->created;
}

int FakeCoordinator::create_calls() const {
  absl::MutexLock lock(&state_->mu);
  return state_->create_calls;
}

void FakeCoordinator::LoseNextCreateAnswers(int count) {
  absl::MutexLock lock(&state_->mu);
  state_->lost_create_answers = count;
}

void FakeCoordinator::AddWatchScript(WatchScript script) {
  absl::MutexLock lock(&state_->mu);
  state_->scripts.push_back(std::move(script));
}

std::vector<v1::WatchJobRequest> FakeCoordinator::watch_requests() const {
  absl::MutexLock lock(&state_->mu);
  return state_->watch_requests;
}

void FakeCoordinator::OnIdleWatch(std::function<void()> callback) {
  absl::MutexLock lock(&state_->mu);
  state_->on_idle_watch = std::move(callback);
}

void FakeCoordinator::BreakNextUploadAfter(int64_t bytes) {
  absl::MutexLock lock(&state_->mu);
  state_->break_upload_after = bytes;
}

std::map<std::string, std::string> FakeCoordinator::file_contents() const {
  absl::MutexLock lock(&state_->mu);
  return state_->contents;
}

int64_t FakeCoordinator::uploaded_bytes() const {
  absl::MutexLock lock(&state_->mu);
  return state_->uploaded_bytes;
}

std::vector<v1::ImportModelRequest> FakeCoordinator::imports() const {
  absl::MutexLock lock(&state_->mu);
  return state_->imports;
}

void FakeCoordinator::AddArtifact(const std::string& job, const std::string& path,
                                  const std::string& content) {
  absl::MutexLock lock(&state_->mu);
  state_->artifacts[job][path] = content;
}

void FakeCoordinator::DamageArtifacts() {
  absl::MutexLock lock(&state_->mu);
  state_->damage_artifacts = true;
}

void FakeCoordinator::SetClockAhead(absl::Duration duration) {
  absl::MutexLock lock(&state_->mu);
  state_->clock_ahead = duration;
}

void FakeCoordinator::SetFleetChecks(const v1::CheckFleetResponse& checks) {
  absl::MutexLock lock(&state_->mu);
  state_->fleet_checks = checks;
}

}  // namespace anneal::cli
