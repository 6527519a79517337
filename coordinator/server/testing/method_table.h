#pragma once
// What every method that a coordinator serves needs, and a client that calls any of them.

#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/rpc/authentication.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "coordinator/server/coordinator.h"
#include "gtest/gtest.h"

namespace anneal::testing {

// What a method needs, and the kind of resource that its request names (OwnedResources).
struct Need {
  Right right;
  const char* resource = "";
  // Resources of this kind belong to the service: callers of all projects find them.
  bool is_shared = false;
};

// A method that is missing here fails the tests: decide what it needs.
inline const std::map<std::string, Need>& Needs() {
  static const auto* const needs = new std::map<std::string, Need>{
      {"FineTuningService.CheckJob", {Right::kRead}},
      {"FineTuningService.CreateJob", {Right::kWrite}},
      {"FineTuningService.GetJob", {Right::kRead, "job"}},
      {"FineTuningService.ListJobs", {Right::kRead}},
      {"FineTuningService.DeleteJob", {Right::kWrite, "ended job"}},
      {"FineTuningService.CancelJob", {Right::kWrite, "job"}},
      {"FineTuningService.PauseJob", {Right::kWrite, "job"}},
      {"FineTuningService.ResumeJob", {Right::kWrite, "job"}},
      {"FineTuningService.FinishJob", {Right::kWrite, "job"}},
      {"FineTuningService.RequestStacks", {Right::kWrite, "job"}},
      {"FineTuningService.ListJobEvents", {Right::kRead, "job"}},
      {"FineTuningService.ListStepMetrics", {Right::kRead, "job"}},
      {"FineTuningService.ListCheckpoints", {Right::kRead, "job"}},
      {"FineTuningService.WatchJob", {Right::kRead, "job"}},
      {"FineTuningService.ReadJobLog", {Right::kRead, "job with log"}},
      {"FileService.UploadFile", {Right::kWrite}},
      {"FileService.GetUpload", {Right::kRead, "upload"}},
      {"FileService.GetFile", {Right::kRead, "file"}},
      {"FileService.ListFiles", {Right::kRead}},
      {"FileService.DeleteFile", {Right::kWrite, "file"}},
      {"FileService.DownloadFile", {Right::kRead, "file"}},
      {"ArtifactService.ListArtifacts", {Right::kRead, "job with outputs"}},
      {"ArtifactService.DownloadArtifact", {Right::kRead, "artifact"}},
      {"ModelService.ImportModel", {Right::kWrite}},
      {"ModelService.GetModel", {Right::kRead, "model"}},
      {"ModelService.ListModels", {Right::kRead}},
      {"ModelService.DeleteModel", {Right::kWrite, "model"}},
      {"ClusterService.ListWorkers", {Right::kRead}},
      {"ClusterService.DrainWorker", {Right::kOperate, "worker", true}},
      {"ClusterService.UndrainWorker", {Right::kOperate, "worker", true}},
      {"ClusterService.GetStorage", {Right::kOperate}},
      {"ClusterService.GetCoordinator", {Right::kRead}},
      {"ClusterService.CheckFleet", {Right::kOperate}},
      {"ClusterService.ListUsage", {Right::kRead}},
      {"KeyService.CreateKey", {Right::kOperate}},
      {"KeyService.ListKeys", {Right::kOperate}},
      {"KeyService.RevokeKey", {Right::kOperate, "key", true}},
      {"FleetService.Sync", {Right::kWork}},
  };
  return *needs;
}

inline std::string ShortName(const google::protobuf::MethodDescriptor& method) {
  return absl::StrCat(method.service()->name(), ".", method.name());
}

inline const Need& NeedOf(const google::protobuf::MethodDescriptor& method) {
  const auto found = Needs().find(ShortName(method));
  if (found != Needs().end()) return found->second;
  ADD_FAILURE() << "say in Needs() what " << method.full_name() << " needs";
  static const Need* const unknown = new Need{Right::kOperate};
  return *unknown;
}

// Of the workers' address, not of the API's.
inline bool IsFleetMethod(const google::protobuf::MethodDescriptor& method) {
  return method.service()->file()->package() == "anneal.internal";
}

// All that the coordinator's addresses serve; without health and reflection, which need no key.
inline std::vector<const google::protobuf::MethodDescriptor*> ServedMethodsOf(
    const Coordinator& coordinator) {
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  for (std::string name : coordinator.methods()) {
    if (absl::StartsWith(name, "grpc.")) continue;
    std::replace(name.begin(), name.end(), '/', '.');
    methods.push_back(google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(name));
    EXPECT_NE(methods.back(), nullptr) << name;
  }
  EXPECT_EQ(methods.size(), Needs().size()) << "Needs() has methods that nobody serves";
  return methods;
}

// Calls methods by their descriptors.
class MethodCaller {
 public:
  // One call, with one request; the status it ends with. Waits for the connection, unless the test
  // is that there is none.
  static absl::Status Call(const std::shared_ptr<grpc::Channel>& channel,
                           const google::protobuf::MethodDescriptor& method,
                           const google::protobuf::Message& request, const std::string& key,
                           bool wait_for_connection = true) {
    grpc::GenericStub stub(channel);
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(60));
    context.set_wait_for_ready(wait_for_connection);
    grpc::CompletionQueue queue;
    const auto step = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      EXPECT_TRUE(queue.Next(&tag, &ok));
      return ok;
    };
    const auto stream = stub.PrepareCall(
        &context, absl::StrCat("/", method.service()->full_name(), "/", method.name()), &queue);
    stream->StartCall(&queue);
    if (step()) {
      grpc::ByteBuffer bytes;
      bool own = false;
      EXPECT_TRUE(
          grpc::SerializationTraits<google::protobuf::Message>::Serialize(request, &bytes, &own)
              .ok());
      stream->WriteLast(bytes, grpc::WriteOptions(), &queue);
      step();
    }
    // A watched job never ends: its first answer is enough.
    grpc::ByteBuffer answer;
    stream->Read(&answer, &queue);
    if (step() && method.server_streaming()) {
      context.TryCancel();
      return absl::OkStatus();
    }
    grpc::Status status;
    stream->Finish(&status, &queue);
    step();
    return FromGrpcStatus(status);
  }

  // Naming a resource, if there is one.
  std::unique_ptr<google::protobuf::Message> NewRequest(
      const google::protobuf::MethodDescriptor& method, const std::string& resource = "") {
    std::unique_ptr<google::protobuf::Message> request(
        messages_.GetPrototype(method.input_type())->New());
    // The log that OwnedResources writes is that of prepare.
    if (const auto* rank = method.input_type()->FindFieldByName("rank"); rank != nullptr)
      request->GetReflection()->SetInt32(request.get(), rank, -1);
    if (resource.empty()) return request;
    for (const char* name : {"name", "parent", "upload_id"}) {
      if (const auto* field = method.input_type()->FindFieldByName(name)) {
        request->GetReflection()->SetString(request.get(), field, resource);
        return request;
      }
    }
    ADD_FAILURE() << method.full_name() << " names no resource";
    return request;
  }

 private:
  google::protobuf::DynamicMessageFactory messages_;
};

}  // namespace anneal::testing
