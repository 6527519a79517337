#include "tools/anneal/testing/fake_coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/rpc/request_id.h"
#include "common/spec/issues.h"
#include "common/spec/resolve.h"
#include "tools/anneal/testing/fake_coordinator_state.h"
#include "tools/anneal/text.h"

namespace anneal::cli {

namespace {

// Callers without the key are turned away, as by the real services.
grpc::Status Authorise(const grpc::ServerContext* context) {
  const auto& metadata = context->client_metadata();
  const auto found = metadata.find("authorization");
  if (found != metadata.end() && found->second == absl::StrCat("Bearer ", kFakeKey))
    return grpc::Status::OK;
  return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "unknown API key");
}

grpc::Status NotFound(const std::string& name) {
  return grpc::Status(grpc::StatusCode::NOT_FOUND, name + " not found");
}

v1::ResolvedJob Resolve(const v1::JobSpec& spec, std::vector<v1::Issue>* issues) {
  spec::ResolveInputs inputs;
  inputs.cluster = {.cpu_slots = 2, .threads_per_cpu_slot = 1};
  spec::Resolution resolution = spec::ResolveJob(spec, inputs);
  *issues = resolution.issues;
  return resolution.job;
}

}  // namespace

class FakeCoordinator::Jobs : public v1::FineTuningService::Service {
 public:
  explicit Jobs(State& state) : state_(state) {}

  grpc::Status CheckJob(grpc::ServerContext* context, const v1::CheckJobRequest* request,
                        v1::CheckJobResponse* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    std::vector<v1::Issue> issues;
    *response->mutable_resolved() = Resolve(request->spec(), &issues);
    response->mutable_issues()->Assign(issues.begin(), issues.end());
    return grpc::Status::OK;
  }

  grpc::Status CreateJob(grpc::ServerContext* context, const v1::CreateJobRequest* request,
                         v1::Job* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    ++state_.create_calls;
    size_t index = 0;
    while (index < state_.created.size() &&
           state_.created[index].request_id() != request->request_id())
      ++index;
    if (index == state_.created.size()) {
      state_.created.push_back(*request);
      v1::Job job;
      job.set_name("jobs/" + state_.NewId());
      *job.mutable_spec() = request->spec();
      std::vector<v1::Issue> issues;
      *job.mutable_resolved() = Resolve(request->spec(), &issues);
      job.set_state(v1::JOB_STATE_PENDING);
      state_.jobs.push_front(job);
    }
    if (state_.lost_create_answers > 0) {
      --state_.lost_create_answers;
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the answer was lost");
    }
    *response = state_.jobs.front();
    return grpc::Status::OK;
  }

  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                      v1::Job* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    v1::Job* job = state_.Find(request->name());
    if (job == nullptr) return NotFound(request->name());
    if (state_.on_get_job != nullptr) state_.on_get_job(*job);
    *response = *job;
    return grpc::Status::OK;
  }

  // Pages of two, so that clients have to ask again.
  grpc::Status ListJobs(grpc::ServerContext* context, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    bool after = request->page_token().empty();
    for (const v1::Job& job : state_.jobs) {
      const bool wanted = request->display_name().empty() ||
                          job.resolved().spec().display_name() == request->display_name();
      if (after && wanted) {
        if (response->jobs_size() == std::min(2, request->page_size())) {
          response->set_next_page_token(response->jobs().rbegin()->name());
          break;
        }
        *response->add_jobs() = job;
      }
      after = after || job.name() == request->page_token();
    }
    return grpc::Status::OK;
  }

  grpc::Status CancelJob(grpc::ServerContext* context, const v1::JobActionRequest* request,
                         v1::Job* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    v1::Job* job = state_.Find(request->name());
    if (job == nullptr) return NotFound(request->name());
    if (job->state() == v1::JOB_STATE_SUCCEEDED) {
      return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "the job has ended");
    }
    job->set_state(v1::JOB_STATE_CANCELLED);
    *response = *job;
    return grpc::Status::OK;
  }

  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    WatchScript script;
    std::function<void()> on_idle;
    {
      absl::MutexLock lock(&state_.mu);
      state_.watch_requests.push_back(*request);
      if (!state_.scripts.empty()) {
        script = std::move(state_.scripts.front());
        state_.scripts.pop_front();
      } else {
        const v1::Job* job = state_.Find(request->name());
        if (job == nullptr) return NotFound(request->name());
        *script.updates.emplace_back().mutable_snapshot() = *job;
        if (!IsTerminal(job->state())) on_idle = state_.on_idle_watch;
      }
    }
    for (const v1::WatchJobResponse& update : script.updates) writer->Write(update);
    if (on_idle != nullptr) {
      on_idle();
      while (!context->IsCancelled()) Clock::Real().Sleep(absl::Milliseconds(1));
    }
    return script.end;
  }

  grpc::Status ReadJobLog(grpc::ServerContext* context, const v1::ReadJobLogRequest* request,
                          grpc::ServerWriter<v1::LogChunk>* writer) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    LogScript script;
    bool scripted = false;
    {
      absl::MutexLock lock(&state_.mu);
      state_.log_requests.push_back(*request);
      if (state_.lost_logs.count(request->rank()) > 0)
        return NotFound(absl::StrCat("log of rank ", request->rank()));
      if (!state_.log_scripts.empty()) {
        script = std::move(state_.log_scripts.front());
        state_.log_scripts.pop_front();
        scripted = true;
      }
    }
    if (scripted) {
      for (const std::string& text : script.chunks) {
        v1::LogChunk chunk;
        chunk.set_data(text);
        writer->Write(chunk);
      }
      absl::MutexLock lock(&state_.mu);
      v1::Job* job = state_.Find(request->name());
      if (job == nullptr) return NotFound(request->name());
      if (script.at_end != nullptr) script.at_end(*job);
      return script.end;
    }
    for (const char* text : {"rank ", "says\n"}) {
      v1::LogChunk chunk;
      chunk.set_data(absl::StrCat(text, request->rank()));
      writer->Write(chunk);
    }
    return grpc::Status::OK;
  }

 private:
  State& state_;
};

class FakeCoordinator::Files : public v1::FileService::Service {
 public:
  explicit Files(State& state) : state_(state) {}

  grpc::Status ListFiles(grpc::ServerContext* context, const v1::ListFilesRequest* request,
                         v1::ListFilesResponse* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    for (const v1::File& file : state_.files) {
      if (request->sha256().empty() || request->sha256() == file.sha256())
        *response->add_files() = file;
    }
    return grpc::Status::OK;
  }

  grpc::Status GetUpload(grpc::ServerContext* context, const v1::GetUploadRequest* request,
                         v1::Upload* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    const auto found = state_.uploads.find(request->upload_id());
    if (found == state_.uploads.end()) return NotFound(request->upload_id());
    response->set_received_bytes(static_cast<int64_t>(found->second.size()));
    return grpc::Status::OK;
  }

  grpc::Status UploadFile(grpc::ServerContext* context,
                          grpc::ServerReader<v1::UploadFileRequest>* reader,
                          v1::File* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    v1::UploadFileRequest request;
    if (!reader->Read(&request) || !request.has_header()) {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no header");
    }
    const v1::UploadHeader header = request.header();
    absl::MutexLock lock(&state_.mu);
    std::string& content = state_.uploads[header.upload_id()];
    if (header.offset() != static_cast<int64_t>(content.size())) {
      return grpc::Status(grpc::StatusCode::OUT_OF_RANGE, "wrong offset");
    }
    while (reader->Read(&request)) {
      content += request.chunk();
      state_.uploaded_bytes += static_cast<int64_t>(request.chunk().size());
      if (state_.break_upload_after.has_value() &&
          static_cast<int64_t>(content.size()) >= *state_.break_upload_after) {
        state_.break_upload_after.reset();
        return grpc::Status(grpc::StatusCode::UNAVAILABLE, "broken");
      }
    }
    if (Sha256Hex(content) != header.sha256())
      return grpc::Status(grpc::StatusCode::DATA_LOSS, "hash differs");
    v1::File& file = state_.files.emplace_back();
    file.set_name("files/" + state_.NewId());
    file.set_display_name(header.display_name());
    file.set_sha256(header.sha256());
    file.set_size_bytes(header.size_bytes());
    state_.contents[file.name()] = content;
    *response = file;
    return grpc::Status::OK;
  }

 private:
  State& state_;
};

class FakeCoordinator::Models : public v1::ModelService::Service {
 public:
  explicit Models(State& state) : state_(state) {}

  grpc::Status ImportModel(grpc::ServerContext* context, const v1::ImportModelRequest* request,
                           v1::Model* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    state_.imports.push_back(*request);
    response->set_name("models/imported");
    response->set_family("llama");
    return grpc::Status::OK;
  }
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::Model* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    response->set_name(request->name());
    response->set_source_id("Org/" + std::string(IdOf(request->name())));
    return grpc::Status::OK;
  }

 private:
  State& state_;
};

class FakeCoordinator::Artifacts : public v1::ArtifactService::Service {
 public:
  explicit Artifacts(State& state) : state_(state) {}

  grpc::Status ListArtifacts(grpc::ServerContext* context, const v1::ListArtifactsRequest* request,
                             v1::ListArtifactsResponse* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    response->set_folder_uri(absl::StrCat("file:///srv/anneal/outputs/", IdOf(request->parent())));
    for (const auto& [path, content] : state_.artifacts[request->parent()]) {
      v1::Artifact& artifact = *response->add_artifacts();
      artifact.set_name(absl::StrCat(request->parent(), "/artifacts/", path));
      artifact.set_path(path);
      artifact.set_size_bytes(static_cast<int64_t>(content.size()));
      artifact.set_sha256(Sha256Hex(content));
    }
    return grpc::Status::OK;
  }

  grpc::Status DownloadArtifact(grpc::ServerContext* context,
                                const v1::DownloadArtifactRequest* request,
                                grpc::ServerWriter<v1::DownloadArtifactResponse>* writer) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    constexpr char kMiddle[] = "/artifacts/";
    const size_t middle = request->name().find(kMiddle);
    std::string content;
    {
      absl::MutexLock lock(&state_.mu);
      content = state_.artifacts[request->name().substr(0, middle)]
                                [request->name().substr(middle + sizeof(kMiddle) - 1)];
      if (state_.damage_artifacts && !content.empty()) content[0] ^= 1;
    }
    for (size_t offset = static_cast<size_t>(request->offset()); offset < content.size();
         offset += 4) {
      v1::DownloadArtifactResponse chunk;
      chunk.set_offset(static_cast<int64_t>(offset));
      chunk.set_data(content.substr(offset, 4));
      writer->Write(chunk);
    }
    return grpc::Status::OK;
  }

 private:
  State& state_;
};

class FakeCoordinator::Cluster : public v1::ClusterService::Service {
 public:
  explicit Cluster(State& state) : state_(state) {}
  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    int first = 0;
    if (!request->page_token().empty() && !absl::SimpleAtoi(request->page_token(), &first))
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "page_token");
    for (int i = first; i < state_.workers; ++i) {
      if (i == first + 2) {
        response->set_next_page_token(absl::StrCat(i));
        break;
      }
      v1::Worker& worker = *response->add_workers();
      worker.set_name(absl::StrCat("workers/w", i));
      worker.set_state(v1::Worker::STATE_READY);
      worker.add_slots()->set_device_name("Test \x1b[31mCPU");
    }
    return grpc::Status::OK;
  }
  grpc::Status GetCoordinator(grpc::ServerContext* context, const v1::GetCoordinatorRequest*,
                              v1::Coordinator* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    response->set_version("0.0.1");
    response->mutable_time()->set_seconds(
        absl::ToUnixSeconds(Clock::Real().TimeNow() + state_.clock_ahead));
    return grpc::Status::OK;
  }
  grpc::Status CheckFleet(grpc::ServerContext* context, const v1::CheckFleetRequest*,
                          v1::CheckFleetResponse* response) override {
    if (auto status = Authorise(context); !status.ok()) return status;
    absl::MutexLock lock(&state_.mu);
    if (!state_.fleet_checks.has_value())
      return grpc::Status(grpc::StatusCode::PERMISSION_DENIED, "for admins");
    *response = *state_.fleet_checks;
    return grpc::Status::OK;
  }

 private:
  State& state_;
};

FakeCoordinator::FakeCoordinator()
    : state_(std::make_unique<State>()),
      jobs_(std::make_unique<Jobs>(*state_)),
      files_(std::make_unique<Files>(*state_)),
      models_(std::make_unique<Models>(*state_)),
      artifacts_(std::make_unique<Artifacts>(*state_)),
      cluster_(std::make_unique<Cluster>(*state_)) {
  Interceptors interceptors;
  interceptors.push_back(
      std::make_unique<RequestIdInterceptorFactory>(Clock::Real(), Random::Real()));
  auto server =
      RpcServer::Start({.address = "127.0.0.1:0"},
                       {jobs_.get(), files_.get(), models_.get(), artifacts_.get(), cluster_.get()},
                       metrics_, Clock::Real(), std::move(interceptors));
  ANNEAL_CHECK_OK(server.status());
  server_ = *std::move(server);
}

FakeCoordinator::~FakeCoordinator() { server_->Shutdown(absl::ZeroDuration()); }

Context FakeCoordinator::context(bool shares_disk) const {
  return {
      .server = address(), .api_key = kFakeKey, .shares_disk = shares_disk, .source = "the test"};
}

std::unique_ptr<Client> FakeCoordinator::MakeClient(bool shares_disk) const {
  auto client = Client::Connect(context(shares_disk));
  ANNEAL_CHECK_OK(client.status());
  return *std::move(client);
}

}  // namespace anneal::cli
