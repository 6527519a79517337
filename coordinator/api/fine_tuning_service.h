#pragma once
// anneal.v1.FineTuningService.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "anneal/v1/fine_tuning_service.grpc.pb.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/rpc/authentication.h"
#include "common/storage/storage_root.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/api/pumped_writer.h"
#include "coordinator/api/spec_resolver.h"
#include "coordinator/api/stream_pump.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/job_history.h"
#include "coordinator/lifecycle/event_sink.h"

namespace anneal {

// Purpose: translates calls into events and back; it decides nothing. Streams use the callback API
// and hold no thread; the other calls may wait for the loop or hash a model, so they run on threads
// of their own. Owner: Coordinator. Thread-safe.
class FineTuningServiceImpl
    : public v1::FineTuningService::WithCallbackMethod_WatchJob<
          v1::FineTuningService::WithCallbackMethod_ReadJobLog<v1::FineTuningService::Service>> {
 public:
  // All outlive the server that serves it.
  struct Parts {
    const Authenticator& authenticator;
    ProjectLimits& limits;
    EventSink& sink;
    const Catalog& catalog;
    JobHistory& history;
    SpecResolver& resolver;
    StorageRoot& storage;
    StreamPump& pump;
    Clock& clock;
    Random& random;
    // The catalog's folder; no job is taken with fewer bytes free there or in the storage root.
    std::string data_dir;
    int64_t min_free_bytes = 0;
  };
  explicit FineTuningServiceImpl(const Parts& parts) : parts_(parts) {}

  grpc::Status CheckJob(grpc::ServerContext* context, const v1::CheckJobRequest* request,
                        v1::CheckJobResponse* response) override;
  grpc::Status CreateJob(grpc::ServerContext* context, const v1::CreateJobRequest* request,
                         v1::Job* response) override;
  grpc::Status GetJob(grpc::ServerContext* context, const v1::GetJobRequest* request,
                      v1::Job* response) override;
  grpc::Status ListJobs(grpc::ServerContext* context, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override;
  grpc::Status DeleteJob(grpc::ServerContext* context, const v1::DeleteJobRequest* request,
                         google::protobuf::Empty* response) override;
  grpc::Status CancelJob(grpc::ServerContext* context, const v1::JobActionRequest* request,
                         v1::Job* response) override;
  grpc::Status PauseJob(grpc::ServerContext* context, const v1::JobActionRequest* request,
                        v1::Job* response) override;
  grpc::Status ResumeJob(grpc::ServerContext* context, const v1::JobActionRequest* request,
                         v1::Job* response) override;
  grpc::Status RequestStacks(grpc::ServerContext* context, const v1::JobActionRequest* request,
                             v1::Job* response) override;
  grpc::Status FinishJob(grpc::ServerContext* context, const v1::JobActionRequest* request,
                         v1::Job* response) override;
  grpc::Status ListJobEvents(grpc::ServerContext* context, const v1::ListJobEventsRequest* request,
                             v1::ListJobEventsResponse* response) override;
  grpc::Status ListStepMetrics(grpc::ServerContext* context,
                               const v1::ListStepMetricsRequest* request,
                               v1::ListStepMetricsResponse* response) override;
  grpc::Status ListCheckpoints(grpc::ServerContext* context,
                               const v1::ListCheckpointsRequest* request,
                               v1::ListCheckpointsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;
  grpc::ServerWriteReactor<v1::LogChunk>* ReadJobLog(grpc::CallbackServerContext* context,
                                                     const v1::ReadJobLogRequest* request) override;

 private:
  using Record = std::shared_ptr<const internal::JobRecord>;

  // The bodies, in our own status.
  absl::Status Check(const grpc::ServerContext& context, const v1::CheckJobRequest& request,
                     v1::CheckJobResponse* response);
  absl::Status Create(const grpc::ServerContext& context, const v1::CreateJobRequest& request,
                      v1::Job* response);
  // Refuses what a full disk could not hold; what is there goes on and can be read.
  absl::Status CheckRoom() const;
  // Makes the new job carry on the training of `parent`, from its checkpoints if it has any.
  absl::Status CarryOn(const std::string& parent, internal::JobRecord* record) const;
  absl::Status List(const grpc::ServerContext& context, const v1::ListJobsRequest& request,
                    v1::ListJobsResponse* response);
  absl::Status Delete(const grpc::ServerContext& context, const v1::DeleteJobRequest& request);
  absl::Status Act(const grpc::ServerContext& context, const v1::JobActionRequest& request,
                   LifecycleEvent event, v1::Job* response);
  absl::Status ListEvents(const grpc::ServerContext& context,
                          const v1::ListJobEventsRequest& request,
                          v1::ListJobEventsResponse* response);
  absl::Status ListSteps(const grpc::ServerContext& context,
                         const v1::ListStepMetricsRequest& request,
                         v1::ListStepMetricsResponse* response);
  absl::StatusOr<std::shared_ptr<PumpedWriter<v1::WatchJobResponse>>> Watch(
      const grpc::CallbackServerContext& context, const v1::WatchJobRequest& request);
  absl::StatusOr<std::shared_ptr<PumpedWriter<v1::LogChunk>>> ReadLog(
      const grpc::CallbackServerContext& context, const v1::ReadJobLogRequest& request);

  // The job of that name in the caller's project.
  absl::StatusOr<Record> Find(const grpc::ServerContextBase& context,
                              const std::string& name) const;
  absl::StatusOr<Record> FindIn(const std::string& project, const std::string& name) const;

  const Parts parts_;
};

}  // namespace anneal
