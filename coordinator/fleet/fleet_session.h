#pragma once
// The two directions between the control loop and a worker's stream.

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "anneal/internal/fleet_service.pb.h"
#include "anneal/v1/cluster_service.pb.h"

namespace anneal {

// One open stream, as the loop sees it. Thread-safe.
class FleetSession {
 public:
  virtual ~FleetSession() = default;
  // The newest message replaces one that could not be sent yet: it says everything.
  virtual void Send(internal::Desired desired) = 0;
  // The last message has been dealt with: the next may come. A slow loop thus slows its workers
  // instead of filling memory.
  virtual void ReadNext() = 0;
  // Ends the stream. May be called twice.
  virtual void Close(absl::Status status) = 0;
};

// How streams and operators reach the loop. Thread-safe; implemented by the control loop.
class FleetInbox {
 public:
  using WorkerReply = std::function<void(absl::StatusOr<v1::Worker>)>;
  // What a worker tells of an examination. Called on the loop's thread, so it must not wait.
  using ExaminationSink =
      std::function<void(const std::string& worker, const internal::ExaminationResult&)>;

  virtual ~FleetInbox() = default;
  virtual void WorkerSynced(std::shared_ptr<FleetSession> session, internal::Observed observed) = 0;
  virtual void SessionClosed(std::shared_ptr<FleetSession> session) = 0;
  // Gives the worker no new tasks, or gives it tasks again. NOT_FOUND for a worker never seen.
  // `reply` as in EventSink.
  virtual void SetDrained(const std::string& worker, bool drained, std::string call,
                          WorkerReply reply) = 0;
  // From now on these examinations are desired, by worker, and no others; what is told of them goes
  // to `sink`, until the next call.
  virtual void Examine(std::map<std::string, internal::Examination> wanted,
                       ExaminationSink sink) = 0;
};

}  // namespace anneal
