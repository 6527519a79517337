#pragma once
// When jobs want to be looked at because time has passed.

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace anneal {

// Purpose: live jobs that wait for a time, soonest first, so that to look for those whose time has
// come costs nothing for the thousands that wait for none. Owner: ControlLoop. Loop thread only.
class Deadlines {
 public:
  // The job's next time; the infinite future takes it out.
  void Put(const std::string& job, absl::Time deadline) {
    Remove(job);
    if (deadline == absl::InfiniteFuture()) return;
    times_[job] = deadline;
    order_.emplace(deadline, job);
  }
  void Remove(const std::string& job) {
    const auto found = times_.find(job);
    if (found == times_.end()) return;
    order_.erase({found->second, job});
    times_.erase(found);
  }
  // Those whose time has come, soonest first. They stay in until they are put anew.
  std::vector<std::string> Due(absl::Time now) const {
    std::vector<std::string> due;
    for (auto it = order_.begin(); it != order_.end() && it->first <= now; ++it)
      due.push_back(it->second);
    return due;
  }

 private:
  std::map<std::string, absl::Time> times_;
  std::set<std::pair<absl::Time, std::string>> order_;
};

}  // namespace anneal
