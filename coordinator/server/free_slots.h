#pragma once
// The time of slots that nobody holds.

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "anneal/v1/cluster_service.pb.h"
#include "coordinator/catalog/usage_ledger.h"
#include "coordinator/lifecycle/job_table.h"

namespace anneal {

// Purpose: adds up, from one look at the fleet to the next, for how long slots of ready workers
// were free. Owner: ControlLoop. Loop thread only.
class FreeSlots {
 public:
  // What the fleet is like from `now` on. The slots that recovering jobs keep are theirs. A time of
  // more than a minute since the last look is not counted: nobody was there.
  void Look(const std::vector<v1::Worker>& roster, const JobTable& recovering, absl::Time now);

  // What has been counted since Clear.
  const UsageRows& counted() const { return counted_; }
  void Clear() { counted_.clear(); }

 private:
  std::map<v1::ResourceSpec::Accelerator, int> free_;
  absl::Time last_ = absl::InfinitePast();
  UsageRows counted_;
};

}  // namespace anneal
