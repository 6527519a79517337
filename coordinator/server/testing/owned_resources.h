#pragma once
// Things of a project that callers may or may not find.

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "anneal/v1/file_service.grpc.pb.h"
#include "anneal/v1/fine_tuning_service.grpc.pb.h"
#include "anneal/v1/key_service.grpc.pb.h"
#include "anneal/v1/model_service.grpc.pb.h"
#include "common/base/sha256.h"
#include "common/base/status_matchers.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/storage/layout.h"

namespace anneal::testing {

// Makes real resources of the project of one caller, by the kinds that Needs() names. For tests
// only; guarded by the caller.
class OwnedResources {
 public:
  struct Parts {
    std::shared_ptr<grpc::Channel> channel;
    std::string key;  // of a user; empty if the channel's certificate is enough
    v1::CreateJobRequest job;
    std::string model_uri;
    std::string storage_root;
    std::string admin_socket;
  };
  explicit OwnedResources(Parts parts) : parts_(std::move(parts)) {}

  // What the maker cannot make itself, because it takes a worker.
  void SetJobWithOutputs(const std::string& name) { job_with_outputs_ = name; }
  void SetWorker(const std::string& name) { worker_ = name; }

  // A new one, but for jobs with outputs, artifacts and workers.
  std::string Make(const std::string& kind) {
    ++made_;
    if (kind == "job") return NewJob();
    if (kind == "ended job") return NewEndedJob();
    if (kind == "job with log") return NewJobWithLog();
    if (kind == "job with outputs") return job_with_outputs_;
    if (kind == "artifact") return job_with_outputs_ + "/artifacts/adapter/weights";
    if (kind == "file") return NewFile(UploadId());
    if (kind == "upload") {
      NewFile(UploadId());
      return UploadId();
    }
    if (kind == "model") return NewModel();
    if (kind == "key") return NewKey();
    if (kind == "worker") return worker_;
    ADD_FAILURE() << "no resource of kind '" << kind << "'";
    return "";
  }
  bool CanMake(const std::string& kind) const {
    if (kind == "job with outputs" || kind == "artifact") return !job_with_outputs_.empty();
    return kind != "worker" || !worker_.empty();
  }

 private:
  template <typename Stub, typename Request, typename Response>
  Response Call(Stub& stub,
                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                const Request& request, const std::string& key) {
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(60));
    Response response;
    EXPECT_THAT(FromGrpcStatus((stub.*method)(&context, request, &response)), IsOk());
    return response;
  }
  std::string UploadId() const { return absl::StrCat("upload", made_); }

  std::string NewJob() {
    auto jobs = v1::FineTuningService::NewStub(parts_.channel);
    return Call(*jobs, &v1::FineTuningService::Stub::CreateJob, parts_.job, parts_.key).name();
  }
  std::string NewEndedJob() {
    const std::string name = NewJob();
    auto jobs = v1::FineTuningService::NewStub(parts_.channel);
    v1::JobActionRequest cancel;
    cancel.set_name(name);
    Call(*jobs, &v1::FineTuningService::Stub::CancelJob, cancel, parts_.key);
    grpc::ClientContext context;
    PrepareCall(context, parts_.key, absl::Seconds(60));
    v1::WatchJobRequest watch;
    watch.set_name(name);
    const auto stream = jobs->WatchJob(&context, watch);
    for (v1::WatchJobResponse message; stream->Read(&message);) continue;
    EXPECT_TRUE(stream->Finish().ok());
    return name;
  }
  std::string NewJobWithLog() {
    const std::string name = NewJob();
    const std::filesystem::path log =
        absl::StrCat(parts_.storage_root, "/", JobLogPath(name.substr(name.find('/') + 1), 0, -1));
    std::filesystem::create_directories(log.parent_path());
    std::ofstream(log) << "of this project\n";
    return name;
  }
  std::string NewFile(const std::string& upload_id) {
    const std::string content = absl::StrCat("{\"of\": ", made_, "}\n");
    grpc::ClientContext context;
    PrepareCall(context, parts_.key, absl::Seconds(60));
    v1::File file;
    const auto stream = v1::FileService::NewStub(parts_.channel)->UploadFile(&context, &file);
    v1::UploadFileRequest message;
    message.mutable_header()->set_display_name("train.jsonl");
    message.mutable_header()->set_size_bytes(static_cast<int64_t>(content.size()));
    message.mutable_header()->set_sha256(Sha256Hex(content));
    message.mutable_header()->set_upload_id(upload_id);
    stream->Write(message);
    message.set_chunk(content);
    stream->Write(message);
    stream->WritesDone();
    EXPECT_THAT(FromGrpcStatus(stream->Finish()), IsOk());
    return file.name();
  }
  std::string NewModel() {
    v1::ImportModelRequest import;
    import.set_model_id(absl::StrCat("tiny", made_));
    import.set_source_uri(parts_.model_uri);
    return Call(*v1::ModelService::NewStub(parts_.channel), &v1::ModelService::Stub::ImportModel,
                import, parts_.key)
        .name();
  }
  std::string NewKey() {
    v1::CreateKeyRequest request;
    request.set_role(v1::Key::ROLE_VIEWER);
    request.set_project("vision");
    request.set_creator("someone");
    auto keys = v1::KeyService::NewStub(*MakeChannel({.target = "unix:" + parts_.admin_socket}));
    return Call(*keys, &v1::KeyService::Stub::CreateKey, request, "").key().name();
  }

  const Parts parts_;
  std::string job_with_outputs_;
  std::string worker_;
  int made_ = 0;
};

}  // namespace anneal::testing
