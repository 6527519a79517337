#pragma once
// How API handlers reach the control loop.

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "anneal/internal/catalog.pb.h"
#include "coordinator/lifecycle/lifecycle_event.h"

namespace anneal {

// Requests about jobs. Each is carried out by the loop thread; `reply` is called once, on one of a
// few threads that all replies share, after what it says is durable and published, or with
// UNAVAILABLE when the loop has stopped. Replies must not block.
// `call` is the id of the API call that asks, for the log (see common/rpc/request_id.h); a record's
// own request_id tells repetitions. Thread-safe.
class EventSink {
 public:
  using JobReply = std::function<void(absl::StatusOr<std::shared_ptr<const internal::JobRecord>>)>;

  virtual ~EventSink() = default;

  // `record` as CreateJobRecord takes it. A repeated request_id answers with the first job, or
  // ALREADY_EXISTS if the requests differ.
  virtual void CreateJob(internal::JobRecord record, std::string call, JobReply reply) = 0;
  // NOT_FOUND if the project has no such job.
  virtual void ChangeJob(const std::string& project, const std::string& id, LifecycleEvent event,
                         std::string call, JobReply reply) = 0;
  // Answers with the last record. FAILED_PRECONDITION while the job lives.
  virtual void DeleteJob(const std::string& project, const std::string& id, std::string call,
                         JobReply reply) = 0;
};

}  // namespace anneal
