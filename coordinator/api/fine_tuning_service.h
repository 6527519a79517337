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
#include "coordinator/api/arena_messages.h"
#include "coordinator/api/free_room.h"
#include "coordinator/api/pooled_call.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/api/pumped_writer.h"
#include "coordinator/api/spec_resolver.h"
#include "coordinator/api/stream_pump.h"
#include "coordinator/api/transfer_pool.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/job_history.h"
#include "coordinator/lifecycle/event_sink.h"
#include "coordinator/lifecycle/shown_job.h"

namespace anneal {

// Purpose: translates calls into events and back; it decides nothing. No call holds a thread while
// it waits: what only looks at the published catalog is answered on gRPC's thread, what touches the
// disk runs on the pool, and what the loop decides is answered on the thread of its replies. Owner:
// Coordinator. Thread-safe.
class FineTuningServiceImpl final : public v1::FineTuningService::CallbackService {
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
    TransferPool& pool;
    // Reads logs: storage that hangs must not hold up calls.
    TransferPool& transfers;
    Clock& clock;
    Random& random;
    // The catalog's folder; no job is taken with fewer bytes free there or in the storage root.
    std::string data_dir;
    int64_t min_free_bytes = 0;
  };
  explicit FineTuningServiceImpl(const Parts& parts);

  grpc::ServerUnaryReactor* CheckJob(grpc::CallbackServerContext* context,
                                     const v1::CheckJobRequest* request,
                                     v1::CheckJobResponse* response) override;
  grpc::ServerUnaryReactor* CreateJob(grpc::CallbackServerContext* context,
                                      const v1::CreateJobRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const v1::GetJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteJob(grpc::CallbackServerContext* context,
                                      const v1::DeleteJobRequest* request,
                                      google::protobuf::Empty* response) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const v1::JobActionRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* PauseJob(grpc::CallbackServerContext* context,
                                     const v1::JobActionRequest* request,
                                     v1::Job* response) override;
  grpc::ServerUnaryReactor* ResumeJob(grpc::CallbackServerContext* context,
                                      const v1::JobActionRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* RequestStacks(grpc::CallbackServerContext* context,
                                          const v1::JobActionRequest* request,
                                          v1::Job* response) override;
  grpc::ServerUnaryReactor* FinishJob(grpc::CallbackServerContext* context,
                                      const v1::JobActionRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobEvents(grpc::CallbackServerContext* context,
                                          const v1::ListJobEventsRequest* request,
                                          v1::ListJobEventsResponse* response) override;
  grpc::ServerUnaryReactor* ListStepMetrics(grpc::CallbackServerContext* context,
                                            const v1::ListStepMetricsRequest* request,
                                            v1::ListStepMetricsResponse* response) override;
  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* context,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;
  grpc::ServerWriteReactor<v1::LogChunk>* ReadJobLog(grpc::CallbackServerContext* context,
                                                     const v1::ReadJobLogRequest* request) override;

 private:
  using Record = std::shared_ptr<const internal::JobRecord>;

  // The bodies, in our own status.
  absl::Status Check(const Caller& caller, const v1::CheckJobRequest& request,
                     v1::CheckJobResponse* response);
  // The record of the new job as the loop takes it, and the origins of its values; or null if
  // the same request has made a job before, which is then in `response`.
  absl::StatusOr<std::unique_ptr<internal::JobRecord>> MakeRecord(
      const Caller& caller, const v1::CreateJobRequest& request, spec::Origins* origins,
      v1::Job* response);
  // Makes the new job carry on the training of `parent`, from its checkpoints if it has any.
  absl::Status CarryOn(const std::string& parent, internal::JobRecord* record) const;
  absl::Status List(const Caller& caller, const v1::ListJobsRequest& request,
                    v1::ListJobsResponse* response);
  void MoveFilesToTrash(const std::string& id);
  // Asks the loop for one change of the job and answers with what it has become.
  grpc::ServerUnaryReactor* Act(grpc::CallbackServerContext& context,
                                const v1::JobActionRequest& request, LifecycleEvent event,
                                v1::Job* response);
  absl::Status ListEvents(const Caller& caller, const v1::ListJobEventsRequest& request,
                          v1::ListJobEventsResponse* response);
  absl::Status ListSteps(const Caller& caller, const v1::ListStepMetricsRequest& request,
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
  FreeRoom room_;
  // Jobs have many parts.
  ArenaMessages<v1::CreateJobRequest, v1::Job> create_messages_;
  ArenaMessages<v1::GetJobRequest, v1::Job> get_messages_;
};

}  // namespace anneal
