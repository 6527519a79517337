#pragma once
// anneal.v1.ModelService.

#include "anneal/v1/model_service.grpc.pb.h"
#include "common/rpc/authentication.h"
#include "coordinator/api/model_library.h"
#include "coordinator/api/transfer_pool.h"
#include "coordinator/catalog/resource_store.h"

namespace anneal {

// Purpose: base models in, and what is known of them. Owner: Coordinator. Thread-safe. Everything
// handed to it must outlive the server, which must be gone before it. Imports and deletions run one
// at a time on a thread of their own: they read whole models and would keep the pool from everybody
// else.
class ModelServiceImpl final : public v1::ModelService::CallbackService {
 public:
  struct Parts {
    const Authenticator& authenticator;
    ResourceStore& resources;
    ModelLibrary& library;
    TransferPool& pool;
  };
  explicit ModelServiceImpl(const Parts& parts) : parts_(parts) {}

  grpc::ServerUnaryReactor* ImportModel(grpc::CallbackServerContext* context,
                                        const v1::ImportModelRequest* request,
                                        v1::Model* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteModel(grpc::CallbackServerContext* context,
                                        const v1::DeleteModelRequest* request,
                                        google::protobuf::Empty* response) override;

 private:
  const Parts parts_;
  TransferPool library_thread_{{.threads = 1}};
};

}  // namespace anneal
