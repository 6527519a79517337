#pragma once
// anneal.v1.ClusterService.

#include "absl/status/status.h"
#include "anneal/v1/cluster_service.grpc.pb.h"
#include "common/base/clock.h"
#include "common/rpc/authentication.h"
#include "coordinator/api/fleet_examiner.h"
#include "coordinator/catalog/usage_ledger.h"
#include "coordinator/collection/storage_collector.h"
#include "coordinator/fleet/fleet_roster.h"
#include "coordinator/fleet/fleet_session.h"

namespace anneal {

// Purpose: shows, drains and examines workers, and tells who has used them. The fleet belongs to no
// project, so any caller sees it; jobs of other projects in its slots are shown by name only.
// Owner: Coordinator. Thread-safe.
class ClusterServiceImpl : public v1::ClusterService::Service {
 public:
  struct Parts {
    const Authenticator& authenticator;
    const FleetRoster& roster;
    FleetInbox& inbox;
    const StorageCollector& collector;
    FleetExaminer& examiner;
    UsageLedger& usage;
    Clock& clock;
  };
  explicit ClusterServiceImpl(const Parts& parts) : parts_(parts) {}

  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override;
  grpc::Status DrainWorker(grpc::ServerContext* context, const v1::DrainWorkerRequest* request,
                           v1::Worker* response) override;
  grpc::Status UndrainWorker(grpc::ServerContext* context, const v1::UndrainWorkerRequest* request,
                             v1::Worker* response) override;
  grpc::Status GetStorage(grpc::ServerContext* context, const v1::GetStorageRequest* request,
                          v1::Storage* response) override;
  grpc::Status GetCoordinator(grpc::ServerContext* context,
                              const v1::GetCoordinatorRequest* request,
                              v1::Coordinator* response) override;
  grpc::Status CheckFleet(grpc::ServerContext* context, const v1::CheckFleetRequest* request,
                          v1::CheckFleetResponse* response) override;
  grpc::Status ListUsage(grpc::ServerContext* context, const v1::ListUsageRequest* request,
                         v1::ListUsageResponse* response) override;

 private:
  absl::Status List(const grpc::ServerContext& context, const v1::ListWorkersRequest& request,
                    v1::ListWorkersResponse* response) const;
  absl::Status SetDrained(const grpc::ServerContext& context, const std::string& name, bool drained,
                          v1::Worker* response);

  const Parts parts_;
};

}  // namespace anneal
