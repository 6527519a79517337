#include "coordinator/catalog/catalog.h"

#include <utility>

#include "coordinator/lifecycle/states.h"

namespace anneal {

namespace {

bool HoldsBytes(const internal::JobRecord& record) {
  return record.checkpoints_size() > 0 || record.job().result().output_bytes() > 0;
}

int IsLive(const internal::JobRecord& record) { return IsTerminal(record.job().state()) ? 0 : 1; }

}  // namespace

std::shared_ptr<const JobTable> Catalog::jobs() const {
  absl::MutexLock lock(&mu_);
  taken_ = true;
  return jobs_;
}

Catalog::Record Catalog::FindJob(absl::string_view project, absl::string_view id) const {
  absl::MutexLock lock(&mu_);
  const auto found = jobs_->find(id);
  if (found == jobs_->end() || found->second->job().project() != project) return nullptr;
  return found->second;
}

Catalog::Record Catalog::FindRequest(const std::string& project,
                                     const std::string& request_id) const {
  absl::MutexLock lock(&mu_);
  const auto found = requests_.find({project, request_id});
  return found == requests_.end() ? nullptr : jobs_->at(found->second);
}

std::vector<Catalog::Record> Catalog::JobsWithBytes(const std::string& project) const {
  absl::MutexLock lock(&mu_);
  std::vector<Record> jobs;
  const auto found = with_bytes_.find(project);
  if (found == with_bytes_.end()) return jobs;
  for (const auto& [id, record] : found->second) jobs.push_back(record);
  return jobs;
}

int64_t Catalog::CountLiveJobs(const std::string& project) const {
  absl::MutexLock lock(&mu_);
  const auto found = live_.find(project);
  return found == live_.end() ? 0 : found->second;
}

void Catalog::Put(const Record& record) {
  const std::string& project = record->job().project();
  Record& place = (*jobs_)[record->id()];
  live_[project] += IsLive(*record) - (place == nullptr ? 0 : IsLive(*place));
  place = record;
  if (!record->request_id().empty()) requests_[{project, record->request_id()}] = record->id();
  if (HoldsBytes(*record)) {
    with_bytes_[project][record->id()] = record;
  } else if (const auto held = with_bytes_.find(project); held != with_bytes_.end()) {
    held->second.erase(record->id());
  }
}

void Catalog::Remove(const std::string& id) {
  const auto found = jobs_->find(id);
  if (found == jobs_->end()) return;
  const internal::JobRecord& record = *found->second;
  live_[record.job().project()] -= IsLive(record);
  requests_.erase({record.job().project(), record.request_id()});
  if (const auto held = with_bytes_.find(record.job().project()); held != with_bytes_.end())
    held->second.erase(id);
  jobs_->erase(found);
}

void Catalog::Publish(const std::vector<Record>& changed, const std::vector<std::string>& deleted) {
  absl::MutexLock lock(&mu_);
  if (std::exchange(taken_, false)) jobs_ = std::make_shared<JobTable>(*jobs_);
  for (const Record& record : changed) Put(record);
  for (const std::string& id : deleted) Remove(id);
  ++version_;
}

uint64_t Catalog::version() const {
  absl::MutexLock lock(&mu_);
  return version_;
}

uint64_t Catalog::AwaitVersionAbove(uint64_t seen, absl::Duration timeout) const {
  absl::MutexLock lock(&mu_);
  const auto changed = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return version_ > seen; };
  clock_.AwaitWithTimeout(&mu_, absl::Condition(&changed), timeout);
  return version_;
}

}  // namespace anneal
