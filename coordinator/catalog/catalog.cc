#include "coordinator/catalog/catalog.h"

#include <utility>

namespace anneal {

std::shared_ptr<const JobTable> Catalog::jobs() const {
  absl::MutexLock lock(&mu_);
  return jobs_;
}

std::shared_ptr<const internal::JobRecord> Catalog::FindJob(absl::string_view project,
                                                            absl::string_view id) const {
  const std::shared_ptr<const JobTable> table = jobs();
  const auto found = table->find(std::string(id));
  if (found == table->end() || found->second->job().project() != project) return nullptr;
  return found->second;
}

void Catalog::Publish(JobTable jobs) {
  auto table = std::make_shared<const JobTable>(std::move(jobs));
  absl::MutexLock lock(&mu_);
  // The old table dies outside the lock, with `table`, unless a reader still holds it.
  jobs_.swap(table);
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
