#pragma once
// anneal.internal.FleetService over gRPC.

#include "anneal/internal/fleet_service.grpc.pb.h"
#include "common/rpc/authentication.h"
#include "coordinator/fleet/fleet_session.h"

namespace anneal {

// Purpose: one FleetSession per stream whose caller is known; everything else is the loop's.
// Owner: Coordinator. Thread-safe. What it is made of must outlive the server that serves it.
class FleetServiceImpl : public internal::FleetService::CallbackService {
 public:
  FleetServiceImpl(const Authenticator& authenticator, FleetInbox& inbox)
      : authenticator_(authenticator), inbox_(inbox) {}

  grpc::ServerBidiReactor<internal::Observed, internal::Desired>* Sync(
      grpc::CallbackServerContext* context) override;

 private:
  const Authenticator& authenticator_;
  FleetInbox& inbox_;
};

}  // namespace anneal
