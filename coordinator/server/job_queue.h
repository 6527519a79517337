#pragma once
// The jobs that wait to be placed, in the order in which they are served.

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"
#include "coordinator/scheduling/placement_policy.h"

namespace anneal {

// Where the job stands among those that wait or have trainers.
QueuePlace PlaceOf(const internal::JobRecord& record);
// The slots of its newest generation, by rank.
std::vector<Placement> PlacementsOf(const internal::JobRecord& record);
// What it waits for, or nothing.
std::optional<WaitingJob> AsWaiting(const internal::JobRecord& record);
// It is not placed before this.
absl::Time NotBefore(const internal::JobRecord& record);

// Slots that jobs want and do not have.
struct SlotsWanted {
  int cpu = 0, gpu = 0;

  // `sign` 1 adds what the job wants, -1 takes it away.
  void Add(const WaitingJob& job, int sign = 1);
  bool operator==(const SlotsWanted&) const = default;
};

// How long who waits the longest has waited, for a prepare slot and for accelerator slots.
struct LongestWaits {
  absl::Duration prepare, slots;
};

// Purpose: keeps the waiting jobs sorted, so that a plan looks at the first of them and not at
// thousands. Owner: ControlLoop. Loop thread only.
class JobQueue {
 public:
  // The newest record of a live job: in, or out if it does not wait.
  void Put(const internal::JobRecord& record);
  // The job has ended, or is not there any more.
  void Remove(const std::string& id);

  // The first `depth` of each kind (for prepare, CPU and GPU slots) that may be placed now.
  std::vector<WaitingJob> First(size_t depth, absl::Time now) const;
  // The ids of up to `count` jobs, others at each call until all have been given.
  std::vector<std::string> NextInTurn(size_t count);
  // By all that wait, and by those whose data is being prepared or still has to be: whoever brings
  // workers for them must not wait until a worker has prepared it. What a recovering job keeps is
  // not wanted.
  SlotsWanted CountWanted() const { return wanted_; }
  // Of those that may be placed now.
  LongestWaits FindLongestWaits(absl::Time now) const;

 private:
  enum class Kind { kPrepare, kCpu, kGpu };
  // False for recovering jobs, which come first; then the queue's order.
  using Key = std::pair<bool, QueuePlace>;
  struct Entry {
    WaitingJob job;
    absl::Time not_before;
  };
  // By the time since which they wait.
  using Waits = std::set<std::pair<absl::Time, const Entry*>>;
  static absl::Duration LongestOf(const Waits& waits, absl::Time now);
  Waits& WaitsOf(const WaitingJob& job) {
    return job.needs_prepare ? waits_for_prepare_ : waits_for_slots_;
  }

  std::map<Kind, std::map<Key, Entry>> jobs_;
  std::map<std::string, std::pair<Kind, Key>, std::less<>> places_;  // by id
  std::string last_in_turn_;
  std::map<std::string, WaitingJob, std::less<>> in_preparation_;  // by id
  // Of all of the above; kept, because to count ten thousand takes longer than a turn.
  SlotsWanted wanted_;
  Waits waits_for_prepare_, waits_for_slots_;  // of `jobs_`, which they point into
};

}  // namespace anneal
