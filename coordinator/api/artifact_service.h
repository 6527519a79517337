#pragma once
// anneal.v1.ArtifactService.

#include "anneal/v1/artifact_service.grpc.pb.h"
#include "common/rpc/authentication.h"
#include "common/storage/storage_root.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/api/transfer_pool.h"
#include "coordinator/catalog/catalog.h"

namespace anneal {

// Purpose: hands out what jobs have made. A job's artifacts are what its manifest lists, and
// nothing else in its folder can be named. Owner: Coordinator. Thread-safe. Everything handed to it
// must outlive the server.
class ArtifactServiceImpl final : public v1::ArtifactService::CallbackService {
 public:
  struct Parts {
    const Authenticator& authenticator;
    ProjectLimits& limits;
    const Catalog& catalog;
    StorageRoot& root;
    TransferPool& pool;
  };
  explicit ArtifactServiceImpl(const Parts& parts) : parts_(parts) {}

  grpc::ServerUnaryReactor* ListArtifacts(grpc::CallbackServerContext* context,
                                          const v1::ListArtifactsRequest* request,
                                          v1::ListArtifactsResponse* response) override;
  grpc::ServerWriteReactor<v1::DownloadArtifactResponse>* DownloadArtifact(
      grpc::CallbackServerContext* context, const v1::DownloadArtifactRequest* request) override;

 private:
  const Parts parts_;
};

}  // namespace anneal
