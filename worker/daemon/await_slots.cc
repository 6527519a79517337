#include "worker/daemon/await_slots.h"

#include <poll.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/metrics/admin_server.h"
#include "worker/daemon/accelerator_inventory.h"

namespace anneal {
namespace {

constexpr absl::Duration kLookEvery = absl::Seconds(5);

// Why the worker is not ready. Thread-safe.
class Reason {
 public:
  void Set(const absl::Status& status) {
    absl::MutexLock lock(&mu_);
    status_ = status;
  }
  absl::Status Get() const {
    absl::MutexLock lock(&mu_);
    return status_;
  }

 private:
  mutable absl::Mutex mu_;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

// Until it is time to look again. Whether the worker was told to leave.
absl::StatusOr<bool> WaitForKeeper(KeeperClient& keeper, Clock& clock) {
  const absl::Duration due = clock.MonotonicNow() + kLookEvery;
  while (true) {
    ANNEAL_RETURN_IF_ERROR(keeper.Serve());
    if (keeper.draining()) return true;
    const absl::Duration left = due - clock.MonotonicNow();
    if (left <= absl::ZeroDuration()) return false;
    pollfd polled = {keeper.fd(), POLLIN, 0};
    ::poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
  }
}

}  // namespace

absl::StatusOr<std::optional<std::vector<v1::Slot>>> AwaitSlots(const WorkerOptions& options,
                                                                KeeperClient& keeper,
                                                                WorkerMetrics& metrics,
                                                                const MetricRegistry& registry,
                                                                Clock& clock) {
  Reason reason;
  std::unique_ptr<AdminServer> admin;
  std::string last_why;
  while (true) {
    absl::StatusOr<std::vector<v1::Slot>> slots = FindSlots(options.inventory);
    if (slots.ok()) return std::make_optional(*std::move(slots));
    metrics.inventory_failures.Increment();
    reason.Set(slots.status());
    if (slots.status().message() != last_why) {
      last_why = std::string(slots.status().message());
      ANNEAL_LOG(ERROR) << "no slots to lend: looking again"
                        << Field("every", absl::FormatDuration(kLookEvery))
                        << Field("why", last_why);
    }
    if (admin == nullptr) {
      ANNEAL_ASSIGN_OR_RETURN(
          admin, AdminServer::Start(
                     {.address = options.admin_listen, .ready = [&reason] { return reason.Get(); }},
                     registry));
      if (!options.address_file.empty()) {
        ANNEAL_RETURN_IF_ERROR(WriteFileAtomically(options.address_file,
                                                   DumpJson({{"admin", admin->address()}}) + "\n"));
      }
    }
    ANNEAL_ASSIGN_OR_RETURN(const bool leave, WaitForKeeper(keeper, clock));
    if (leave) return std::nullopt;
  }
}

}  // namespace anneal
