#pragma once
// The worker's end of FleetService.Sync.

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "anneal/internal/fleet_service.grpc.pb.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/thread.h"
#include "common/rpc/retry.h"
#include "grpcpp/channel.h"

namespace anneal {

// Keeps one stream to the coordinator open, opening it again with backoff for as long as it lives.
// Both directions carry full states, so each holds one message at most: the newest. Owned by the
// daemon, thread-safe; one thread of its own, "link", beside gRPC's.
class CoordinatorLink {
 public:
  // `notify` is called, without a lock and from any thread, when there is something to take or the
  // connection has come or gone; it must not block.
  CoordinatorLink(std::shared_ptr<grpc::Channel> channel, std::string api_key,
                  std::function<void()> notify, Clock& clock, Random& random);
  // Cancels the stream and waits for its end.
  ~CoordinatorLink();

  // Replaces what waits to be sent. On a new stream the last one is sent again.
  void Send(const internal::Observed& observed);
  // The newest desired state, once.
  std::optional<internal::Desired> TakeDesired();
  // Whether the coordinator has said something on the present stream.
  bool connected() const;
  // Whether the newest observed state has been written to the present stream.
  bool sent() const;
  // Gives the present stream up, and waits before the next as after a failure: what came was from a
  // coordinator that is not the one any more.
  void Reconnect();

 private:
  class Stream;

  void Run();
  void Heard(internal::Desired desired);

  const std::unique_ptr<internal::FleetService::Stub> stub_;
  const std::string api_key_;
  const std::function<void()> notify_;
  Clock& clock_;
  Backoff backoff_;  // of the thread

  mutable absl::Mutex mu_;
  Stream* stream_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool connected_ ABSL_GUARDED_BY(mu_) = false;
  bool refused_ ABSL_GUARDED_BY(mu_) = false;  // Reconnect was called on the present stream
  std::optional<internal::Observed> observed_ ABSL_GUARDED_BY(mu_);
  bool unsent_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<internal::Desired> desired_ ABSL_GUARDED_BY(mu_);

  Thread thread_;  // last: runs on the members above
};

}  // namespace anneal
