#pragma once
// A real gRPC server on a free port over a real catalog and storage root in a temporary folder,
// with callers of two projects.

#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/rpc/authentication.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/rpc/status.h"
#include "common/storage/storage_root.h"
#include "common/storage/testing/faulty_file_system.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/api/transfer_pool.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/resource_store.h"

namespace anneal::testing {

inline constexpr char kAdaKey[] = "ada-key-0123456789abcdef";  // project "vision"
inline constexpr char kEveKey[] = "eve-key-0123456789abcdef";  // project "other"

// A test makes its service from these parts and calls Serve with it.
class ApiFixture : public ::testing::Test {
 protected:
  ApiFixture() {
    root_ = *StorageRoot::Open(folder_ + "/storage", files_, clock_, random_);
    ANNEAL_CHECK_OK(FileSystem::Posix().MakeFolders(folder_ + "/catalog"));
    resources_ = *ResourceStore::Open(folder_ + "/catalog");
    limits_ = std::make_unique<ProjectLimits>(
        ProjectLimits::Parts{*resources_, catalog_, clock_, limit_metrics_}, LimitOptions());
  }
  ~ApiFixture() override { server_.reset(); }

  void Serve(grpc::Service& service) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(
        server_, RpcServer::Start({.address = "127.0.0.1:0"}, {&service}, metrics_, clock_));
    ANNEAL_ASSERT_OK_AND_ASSIGN(channel_, MakeChannel({.target = server_->address()}));
  }

  // One unary call of `stub.*method`.
  template <typename Stub, typename Request, typename Response>
  static absl::StatusOr<Response> Call(Stub& stub,
                                       grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                                    const Request&, Response*),
                                       const Request& request, const char* key = kAdaKey) {
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(30));
    Response response;
    const absl::Status status = FromGrpcStatus((stub.*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  // The bytes of a download stream, checking that the chunks follow each other and are no larger
  // than they may be.
  template <typename Response, typename Start>
  static absl::StatusOr<std::string> Download(int64_t offset, Start start,
                                              const char* key = kAdaKey) {
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(30));
    auto stream = start(&context);
    std::string bytes;
    for (Response response; stream->Read(&response);) {
      EXPECT_EQ(response.offset(), offset + static_cast<int64_t>(bytes.size()));
      EXPECT_LE(response.data().size(), static_cast<size_t>(kMaxChunkBytes));
      bytes += response.data();
    }
    const absl::Status status = FromGrpcStatus(stream->Finish());
    if (!status.ok()) return status;
    return bytes;
  }

  void WriteFile(const std::string& path, absl::string_view text) {
    ANNEAL_ASSERT_OK(FileSystem::Posix().MakeFolders(path.substr(0, path.rfind('/'))));
    ANNEAL_ASSERT_OK_AND_ASSIGN(auto file, FileSystem::Posix().OpenForAppend(path, 0));
    ANNEAL_ASSERT_OK(file->Append(text));
  }

  const TempDir dir_;
  const std::string& folder_ = dir_.path();
  Clock& clock_ = Clock::Real();
  SeededRandom random_{1};
  FaultyFileSystem files_{FileSystem::Posix()};
  MetricRegistry registry_;
  RpcMetrics metrics_{registry_};
  const ApiKeyAuthenticator authenticator_{
      {{kAdaKey, {"vision", "ada"}}, {kEveKey, {"other", "eve"}}}, clock_};
  Catalog catalog_{clock_};
  std::unique_ptr<StorageRoot> root_;
  std::unique_ptr<ResourceStore> resources_;
  LimitMetrics limit_metrics_{registry_};
  std::unique_ptr<ProjectLimits> limits_;
  TransferPool pool_{{.threads = 2, .max_streams = 3, .max_project_streams = 2}};
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace anneal::testing
