#pragma once
// anneal.v1.FileService.

#include "anneal/v1/file_service.grpc.pb.h"
#include "common/rpc/authentication.h"
#include "coordinator/api/file_library.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/api/transfer_pool.h"
#include "coordinator/catalog/resource_store.h"

namespace anneal {

// Purpose: files in and out. Owner: Coordinator. Thread-safe. Everything handed to it must outlive
// the server. Disk work is done on the pool.
class FileServiceImpl final : public v1::FileService::CallbackService {
 public:
  struct Parts {
    const Authenticator& authenticator;
    ProjectLimits& limits;
    ResourceStore& resources;
    FileLibrary& library;
    TransferPool& pool;
  };
  explicit FileServiceImpl(const Parts& parts) : parts_(parts) {}

  grpc::ServerReadReactor<v1::UploadFileRequest>* UploadFile(grpc::CallbackServerContext* context,
                                                             v1::File* response) override;
  grpc::ServerUnaryReactor* GetUpload(grpc::CallbackServerContext* context,
                                      const v1::GetUploadRequest* request,
                                      v1::Upload* response) override;
  grpc::ServerUnaryReactor* GetFile(grpc::CallbackServerContext* context,
                                    const v1::GetFileRequest* request, v1::File* response) override;
  grpc::ServerUnaryReactor* ListFiles(grpc::CallbackServerContext* context,
                                      const v1::ListFilesRequest* request,
                                      v1::ListFilesResponse* response) override;
  grpc::ServerUnaryReactor* DeleteFile(grpc::CallbackServerContext* context,
                                       const v1::DeleteFileRequest* request,
                                       google::protobuf::Empty* response) override;
  grpc::ServerWriteReactor<v1::DownloadFileResponse>* DownloadFile(
      grpc::CallbackServerContext* context, const v1::DownloadFileRequest* request) override;

 private:
  const Parts parts_;
};

}  // namespace anneal
