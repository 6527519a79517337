#pragma once
// When a trainer has to be ended for the sake of the others: it is stopped, silent, or takes more
// memory than its slot has.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/protocol/messages.h"
#include "worker/daemon/cgroup.h"

namespace anneal {

// From /proc/<pid>/status (proc(5)).
struct ProcessLook {
  char state = '?';  // 'R', 'S', 'T' (stopped by a signal), ...
  // Anonymous and shared memory. Mapped files, such as a model's weights, are not counted: the
  // kernel takes their pages back when it needs them.
  int64_t own_memory_bytes = 0;
};
absl::StatusOr<ProcessLook> LookAtProcess(int64_t pid);

// How many processes of our control group, or of one below it, the kernel has killed for want of
// memory (memory.events); where the group does not count them, how many of the whole machine
// (/proc/vmstat). Nothing if the kernel does not say. The paths are for tests.
std::optional<int64_t> CountOutOfMemoryKills(const std::string& cgroup_root = kCgroupRoot,
                                             const std::string& own_cgroup_file = kOwnCgroupFile,
                                             const std::string& vmstat_file = "/proc/vmstat");

// Watches one trainer. A trainer sends word every second, also when its training thread waits or
// hangs (it sees to its own hangs), so silence means that the whole process stands still. Used from
// the daemon's loop only.
class ProcessWatch {
 public:
  // `memory_bytes`: the slot's share, 0 = not watched. `name` of the trainer, for messages.
  ProcessWatch(std::string name, int64_t memory_bytes, Clock& clock);

  // To be called a few times a second. `heard`: whether it has said something since the last call,
  // `said`: what it said last. Why it must be killed, with a reason: UNRESPONSIVE or OUT_OF_MEMORY.
  absl::Status Look(int64_t pid, bool heard, const protocol::Status& said);

 private:
  const std::string name_;
  const int64_t memory_bytes_;
  Clock& clock_;
  absl::Duration last_look_;
  absl::Duration silence_ = absl::ZeroDuration();
  absl::Duration stopped_ = absl::ZeroDuration();
};

}  // namespace anneal
