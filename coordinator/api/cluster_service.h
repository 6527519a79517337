#pragma once
// anneal.v1.ClusterService.

#include "absl/status/status.h"
#include "anneal/v1/cluster_service.grpc.pb.h"
#include "common/rpc/authentication.h"
#include "coordinator/collection/storage_collector.h"
#include "coordinator/fleet/fleet_roster.h"
#include "coordinator/fleet/fleet_session.h"

namespace anneal {

// Purpose: shows and drains workers. The fleet belongs to no project, so any caller sees it; jobs
// of other projects in its slots are shown by name only. Owner: Coordinator. Thread-safe.
class ClusterServiceImpl : public v1::ClusterService::Service {
 public:
  ClusterServiceImpl(const Authenticator& authenticator, const FleetRoster& roster,
                     FleetInbox& inbox, const StorageCollector& collector)
      : authenticator_(authenticator), roster_(roster), inbox_(inbox), collector_(collector) {}

  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override;
  grpc::Status DrainWorker(grpc::ServerContext* context, const v1::DrainWorkerRequest* request,
                           v1::Worker* response) override;
  grpc::Status UndrainWorker(grpc::ServerContext* context, const v1::UndrainWorkerRequest* request,
                             v1::Worker* response) override;
  grpc::Status GetStorage(grpc::ServerContext* context, const v1::GetStorageRequest* request,
                          v1::Storage* response) override;

 private:
  absl::Status List(const grpc::ServerContext& context, const v1::ListWorkersRequest& request,
                    v1::ListWorkersResponse* response) const;
  absl::Status SetDrained(const grpc::ServerContext& context, const std::string& name, bool drained,
                          v1::Worker* response);

  const Authenticator& authenticator_;
  const FleetRoster& roster_;
  FleetInbox& inbox_;
  const StorageCollector& collector_;
};

}  // namespace anneal
