#include "coordinator/api/cluster_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "common/base/status.h"
#include "common/base/version.h"
#include "common/rpc/paging.h"
#include "common/rpc/request_id.h"
#include "common/rpc/status.h"
#include "coordinator/api/list_usage.h"
#include "coordinator/api/resource_names.h"
#include "coordinator/lifecycle/proto_time.h"

namespace anneal {

absl::Status ClusterServiceImpl::List(const grpc::ServerContext& context,
                                      const v1::ListWorkersRequest& request,
                                      v1::ListWorkersResponse* response) const {
  ANNEAL_RETURN_IF_ERROR(parts_.authenticator.CallerOf(context, Right::kRead).status());
  ANNEAL_ASSIGN_OR_RETURN(const PageRequest page,
                          ParsePageRequest(request.page_size(), request.page_token(), "workers"));
  // Held while it is read: the next one takes its place at any moment.
  const std::shared_ptr<const FleetRoster::Workers> workers = parts_.roster.workers();
  for (const v1::Worker& worker : *workers) {
    if (worker.name() <= page.after_id) continue;
    if (response->workers_size() == page.size) {
      response->set_next_page_token(
          MakePageToken(response->workers(page.size - 1).name(), "workers"));
      break;
    }
    *response->add_workers() = worker;
  }
  return absl::OkStatus();
}

absl::Status ClusterServiceImpl::SetDrained(const grpc::ServerContext& context,
                                            const std::string& name, bool drained,
                                            v1::Worker* response) {
  ANNEAL_RETURN_IF_ERROR(parts_.authenticator.CallerOf(context, Right::kOperate).status());
  ANNEAL_ASSIGN_OR_RETURN(const std::string worker, WorkerNameOf(name));
  absl::Notification done;
  absl::StatusOr<v1::Worker> answer;
  parts_.inbox.SetDrained(worker, drained, std::string(RequestIdOf(context)),
                          [&](absl::StatusOr<v1::Worker> result) {
                            answer = std::move(result);
                            done.Notify();
                          });
  done.WaitForNotification();
  ANNEAL_ASSIGN_OR_RETURN(*response, std::move(answer));
  return absl::OkStatus();
}

grpc::Status ClusterServiceImpl::ListWorkers(grpc::ServerContext* context,
                                             const v1::ListWorkersRequest* request,
                                             v1::ListWorkersResponse* response) {
  return ToGrpcStatus(List(*context, *request, response));
}
grpc::Status ClusterServiceImpl::DrainWorker(grpc::ServerContext* context,
                                             const v1::DrainWorkerRequest* request,
                                             v1::Worker* response) {
  return ToGrpcStatus(SetDrained(*context, request->name(), true, response));
}
grpc::Status ClusterServiceImpl::UndrainWorker(grpc::ServerContext* context,
                                               const v1::UndrainWorkerRequest* request,
                                               v1::Worker* response) {
  return ToGrpcStatus(SetDrained(*context, request->name(), false, response));
}
grpc::Status ClusterServiceImpl::GetStorage(grpc::ServerContext* context,
                                            const v1::GetStorageRequest*, v1::Storage* response) {
  const auto measure = [&]() -> absl::Status {
    // It walks the whole root, and counts what all projects have.
    ANNEAL_RETURN_IF_ERROR(parts_.authenticator.CallerOf(*context, Right::kOperate).status());
    ANNEAL_ASSIGN_OR_RETURN(*response, parts_.collector.Measure());
    return absl::OkStatus();
  };
  return ToGrpcStatus(measure());
}

grpc::Status ClusterServiceImpl::GetCoordinator(grpc::ServerContext* context,
                                                const v1::GetCoordinatorRequest*,
                                                v1::Coordinator* response) {
  const absl::Status known = parts_.authenticator.CallerOf(*context, Right::kRead).status();
  if (!known.ok()) return ToGrpcStatus(known);
  response->set_version(std::string(Version()));
  *response->mutable_time() = TimestampOf(parts_.clock.TimeNow());
  return grpc::Status::OK;
}
grpc::Status ClusterServiceImpl::CheckFleet(grpc::ServerContext* context,
                                            const v1::CheckFleetRequest* request,
                                            v1::CheckFleetResponse* response) {
  const auto check = [&]() -> absl::Status {
    ANNEAL_RETURN_IF_ERROR(parts_.authenticator.CallerOf(*context, Right::kOperate).status());
    ANNEAL_ASSIGN_OR_RETURN(
        *response, parts_.examiner.Examine(*request, [&] { return context->IsCancelled(); }));
    return absl::OkStatus();
  };
  return ToGrpcStatus(check());
}
grpc::Status ClusterServiceImpl::ListUsage(grpc::ServerContext* context,
                                           const v1::ListUsageRequest* request,
                                           v1::ListUsageResponse* response) {
  const auto list = [&]() -> absl::Status {
    const Right right = request->all_projects() ? Right::kOperate : Right::kRead;
    ANNEAL_ASSIGN_OR_RETURN(const Caller caller, parts_.authenticator.CallerOf(*context, right));
    return anneal::ListUsage(parts_.usage, caller, *request, response);
  };
  return ToGrpcStatus(list());
}

}  // namespace anneal
