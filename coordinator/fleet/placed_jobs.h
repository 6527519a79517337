#pragma once
// The jobs that workers have something to do with.

#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "coordinator/lifecycle/job_table.h"

namespace anneal {

// Purpose: live jobs with open tasks, by worker, so that what a worker says costs what it concerns
// and not what there is: thousands of jobs may wait. Owner: ControlLoop. Loop thread only.
class PlacedJobs {
 public:
  // The newest record of a live job: in, or out if it has no open tasks.
  void Put(const std::shared_ptr<const internal::JobRecord>& record);
  // The job has ended, or is not there any more.
  void Remove(const std::string& id);

  // Of a placed job.
  const internal::JobRecord& Get(const std::string& id) const { return *jobs_.at(id); }
  // Ids of those with open tasks, by worker. No worker without any.
  const std::map<std::string, std::set<std::string>, std::less<>>& by_worker() const {
    return by_worker_;
  }
  // Empty for a worker that has none.
  const std::set<std::string>& On(absl::string_view worker) const;

  // Workers whose jobs have changed, come or gone since the last call.
  std::set<std::string> TakeTouched();

 private:
  JobTable jobs_;
  std::map<std::string, std::set<std::string>, std::less<>> by_worker_;
  std::set<std::string> touched_;
};

}  // namespace anneal
