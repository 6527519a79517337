#pragma once
// One connection to a coordinator, with stubs of all its services.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "anneal/v1/artifact_service.grpc.pb.h"
#include "anneal/v1/cluster_service.grpc.pb.h"
#include "anneal/v1/file_service.grpc.pb.h"
#include "anneal/v1/fine_tuning_service.grpc.pb.h"
#include "anneal/v1/key_service.grpc.pb.h"
#include "anneal/v1/model_service.grpc.pb.h"
#include "tools/anneal/context.h"

namespace anneal::cli {

// Of every call that is not a stream. Importing a model copies and hashes it.
inline constexpr absl::Duration kCallTimeout = absl::Seconds(30);
inline constexpr absl::Duration kImportTimeout = absl::Minutes(30);

// All calls of a client carry one request id (common/rpc/request_id.h), so that a command can be
// found in the service's logs. Thread-safe.
class Client {
 public:
  // Connects lazily: an unreachable server shows with the first call.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const Context& context);

  // Calls a unary method: Call(&v1::FineTuningService::StubInterface::GetJob, request). Errors
  // carry reason and fields; one of an unreachable server names its address and where that was
  // found.
  template <typename Service, typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Service::*method)(grpc::ClientContext*,
                                                                const Request&, Response*),
                                const Request& request, absl::Duration timeout = kCallTimeout) {
    grpc::ClientContext context;
    Prepare(context, timeout);
    Response response;
    absl::Status status =
        ToStatus((StubOf(static_cast<Service*>(nullptr)).*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  // For streams: adds key, request id and deadline to the call, and turns its end into our status.
  void Prepare(grpc::ClientContext& context,
               absl::Duration timeout = absl::InfiniteDuration()) const;
  absl::Status ToStatus(const grpc::Status& status) const;

  v1::FineTuningService::StubInterface& jobs() const { return *jobs_; }
  v1::FileService::StubInterface& files() const { return *files_; }
  v1::ArtifactService::StubInterface& artifacts() const { return *artifacts_; }
  const Context& context() const { return context_; }

 private:
  Client(const Context& context, const std::shared_ptr<grpc::Channel>& channel);

  v1::FineTuningService::StubInterface& StubOf(v1::FineTuningService::StubInterface*) const {
    return *jobs_;
  }
  v1::FileService::StubInterface& StubOf(v1::FileService::StubInterface*) const { return *files_; }
  v1::ArtifactService::StubInterface& StubOf(v1::ArtifactService::StubInterface*) const {
    return *artifacts_;
  }
  v1::ModelService::StubInterface& StubOf(v1::ModelService::StubInterface*) const {
    return *models_;
  }
  v1::ClusterService::StubInterface& StubOf(v1::ClusterService::StubInterface*) const {
    return *cluster_;
  }
  v1::KeyService::StubInterface& StubOf(v1::KeyService::StubInterface*) const { return *keys_; }

  const Context context_;
  const std::string request_id_;
  const std::unique_ptr<v1::FineTuningService::StubInterface> jobs_;
  const std::unique_ptr<v1::FileService::StubInterface> files_;
  const std::unique_ptr<v1::ArtifactService::StubInterface> artifacts_;
  const std::unique_ptr<v1::ModelService::StubInterface> models_;
  const std::unique_ptr<v1::ClusterService::StubInterface> cluster_;
  const std::unique_ptr<v1::KeyService::StubInterface> keys_;
};

}  // namespace anneal::cli
