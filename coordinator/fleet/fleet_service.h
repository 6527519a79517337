#pragma once
// anneal.internal.FleetService over gRPC.

#include "anneal/internal/fleet_service.grpc.pb.h"
#include "coordinator/fleet/fleet_session.h"

namespace anneal {

// Purpose: one FleetSession per stream; everything else is the loop's.
// Owner: Coordinator. Thread-safe. `inbox` must outlive the server that serves it.
class FleetServiceImpl : public internal::FleetService::CallbackService {
 public:
  explicit FleetServiceImpl(FleetInbox& inbox) : inbox_(inbox) {}

  grpc::ServerBidiReactor<internal::Observed, internal::Desired>* Sync(grpc::CallbackServerContext* context) override;

 private:
  FleetInbox& inbox_;
};

}  // namespace anneal
