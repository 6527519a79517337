#include "coordinator/api/fine_tuning_service.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/config/units.h"
#include "common/rpc/paging.h"
#include "common/rpc/status.h"
#include "common/spec/training_difference.h"
#include "common/storage/layout.h"
#include "coordinator/api/read_job_log.h"
#include "coordinator/api/resource_names.h"
#include "coordinator/api/watch_job.h"
#include "coordinator/lifecycle/checkpoints.h"
#include "coordinator/lifecycle/states.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace anneal {
namespace {

constexpr int kMaxRequestIdLength = 64;

// Posts and waits for the answer.
absl::StatusOr<std::shared_ptr<const internal::JobRecord>> Await(
    const std::function<void(EventSink::JobReply)>& post) {
  absl::Notification done;
  absl::StatusOr<std::shared_ptr<const internal::JobRecord>> answer;
  post([&](absl::StatusOr<std::shared_ptr<const internal::JobRecord>> result) {
    answer = std::move(result);
    done.Notify();
  });
  done.WaitForNotification();
  return answer;
}

absl::Status CheckRequestId(const std::string& request_id) {
  if (request_id.size() <= kMaxRequestIdLength) return absl::OkStatus();
  return InvalidField(
      "request_id", absl::StrCat(request_id.size(), " characters; at most ", kMaxRequestIdLength));
}

// The same request gives the same text, whatever order its maps are in.
std::string RequestSha256(const v1::CreateJobRequest& request) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    request.SerializeToCodedStream(&coded);
  }
  return Sha256Hex(bytes);
}

absl::Status RefusalOf(const std::vector<v1::Issue>& issues) {
  std::vector<FieldViolation> violations;
  for (const v1::Issue& issue : issues) {
    if (issue.severity() != v1::Issue::SEVERITY_ERROR) continue;
    violations.push_back({absl::StrCat("spec.", issue.field()),
                          issue.hint().empty()
                              ? issue.message()
                              : absl::StrCat(issue.message(), " (", issue.hint(), ")")});
  }
  return WithReason(InvalidFields(violations), "BAD_SPEC");
}

absl::StatusOr<int> LimitOf(int32_t page_size, int default_size, int max_size) {
  if (page_size < 0) return InvalidField("page_size", absl::StrCat(page_size, " is negative"));
  return page_size == 0 ? default_size : std::min(page_size, max_size);
}

}  // namespace

absl::StatusOr<FineTuningServiceImpl::Record> FineTuningServiceImpl::Find(
    const grpc::ServerContextBase& context, const std::string& name) const {
  ANNEAL_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authenticator.CallerOf(context, Right::kRead));
  return FindIn(caller.project, name);
}

absl::StatusOr<FineTuningServiceImpl::Record> FineTuningServiceImpl::FindIn(
    const std::string& project, const std::string& name) const {
  ANNEAL_ASSIGN_OR_RETURN(const std::string id, JobIdOf(name));
  Record record = parts_.catalog.FindJob(project, id);
  if (record == nullptr)
    return WithReason(absl::NotFoundError(absl::StrCat("no ", name)), "NOT_FOUND");
  return record;
}

absl::Status FineTuningServiceImpl::Check(const grpc::ServerContext& context,
                                          const v1::CheckJobRequest& request,
                                          v1::CheckJobResponse* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authenticator.CallerOf(context, Right::kRead));
  ANNEAL_ASSIGN_OR_RETURN(
      SpecResolver::Result result,
      parts_.resolver.Resolve(caller.project, request.spec(), parts_.clock.TimeNow()));
  *response->mutable_resolved() = std::move(result.resolution.job);
  for (v1::Issue& issue : result.resolution.issues) *response->add_issues() = std::move(issue);
  return absl::OkStatus();
}

absl::Status FineTuningServiceImpl::Create(const grpc::ServerContext& context,
                                           const v1::CreateJobRequest& request, v1::Job* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authenticator.CallerOf(context, Right::kWrite));
  ANNEAL_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  internal::JobRecord record;
  record.set_request_id(request.request_id());
  record.set_request_sha256(RequestSha256(request));
  // A repetition gets the first job even if what it named is gone by now. The loop decides; this
  // only saves the looking up.
  const Record first = parts_.catalog.FindRequest(caller.project, request.request_id());
  if (first != nullptr && first->request_sha256() == record.request_sha256()) {
    *response = first->job();
    return absl::OkStatus();
  }
  ANNEAL_RETURN_IF_ERROR(CheckRoom());
  ANNEAL_RETURN_IF_ERROR(parts_.limits.AdmitStorage(caller.project, 0));
  const absl::Time now = parts_.clock.TimeNow();
  ANNEAL_ASSIGN_OR_RETURN(SpecResolver::Result result,
                          parts_.resolver.Resolve(caller.project, request.spec(), now));
  if (!result.resolution.ok() || spec::HasErrors(result.resolution.issues))
    return RefusalOf(result.resolution.issues);
  record.set_id(NewUlid(now, parts_.random));
  record.set_hold_after_validation(request.hold_after_validation());
  *record.mutable_inputs() = std::move(result.inputs);
  v1::Job& job = *record.mutable_job();
  job.set_name(absl::StrCat("jobs/", record.id()));
  job.set_project(caller.project);
  job.set_creator(caller.creator);
  *job.mutable_spec() = request.spec();
  *job.mutable_resolved() = std::move(result.resolution.job);
  if (!request.parent().empty()) ANNEAL_RETURN_IF_ERROR(CarryOn(request.parent(), &record));
  ANNEAL_ASSIGN_OR_RETURN(const Record created, Await([&](EventSink::JobReply reply) {
                            parts_.sink.CreateJob(std::move(record), std::move(reply));
                          }));
  *response = created->job();
  return absl::OkStatus();
}

absl::Status FineTuningServiceImpl::CheckRoom() const {
  for (const std::string& path : {parts_.data_dir, parts_.storage.path()}) {
    ANNEAL_ASSIGN_OR_RETURN(const int64_t free, parts_.storage.files().FreeBytes(path));
    if (free >= parts_.min_free_bytes) continue;
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(
            "the disk of ", path, " has ", FormatBytes(free), " free, and jobs are taken with ",
            FormatBytes(parts_.min_free_bytes), " (--min-free): free some, and try again")),
        "STORAGE_FULL");
  }
  return absl::OkStatus();
}

absl::Status FineTuningServiceImpl::CarryOn(const std::string& parent_name,
                                            internal::JobRecord* record) const {
  ANNEAL_ASSIGN_OR_RETURN(const Record parent, FindIn(record->job().project(), parent_name));
  record->mutable_job()->set_parent(parent->job().name());
  // From the output of a job that has ended well one goes on by naming it as the model.
  if (parent->job().state() == v1::JOB_STATE_SUCCEEDED) return absl::OkStatus();
  if (!IsTerminal(parent->job().state()) && parent->job().state() != v1::JOB_STATE_PAUSED) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat(parent_name, " is ", StateName(parent->job().state()),
                                       ": pause or cancel it before another job carries it on")),
                      "WRONG_STATE");
  }
  if (ResumableCheckpoints(*parent).empty() ||
      CheckpointsExpired(*parent, parts_.clock.TimeNow())) {
    return absl::OkStatus();
  }
  const std::string difference =
      spec::TrainingDifference(parent->job().resolved(), record->job().resolved());
  if (!difference.empty()) {
    return InvalidField(absl::StrCat("spec.", difference),
                        absl::StrCat("differs from that of ", parent_name,
                                     ", whose checkpoint can only be carried on as it began; "
                                     "leave it as it was, or start without a parent"));
  }
  // Templates may ask for the time: the data must be the same.
  *record->mutable_job()->mutable_resolved()->mutable_template_time() =
      parent->job().resolved().template_time();
  *record->mutable_parent_checkpoints() = ResumableCheckpoints(*parent);
  record->mutable_inputs()->add_resources(parent->job().name());
  return absl::OkStatus();
}

absl::Status FineTuningServiceImpl::List(const grpc::ServerContext& context,
                                         const v1::ListJobsRequest& request,
                                         v1::ListJobsResponse* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authenticator.CallerOf(context, Right::kRead));
  const std::string filter = absl::StrCat(
      caller.project, "\n", absl::StrJoin(request.states(), ","), "\n", request.display_name());
  ANNEAL_ASSIGN_OR_RETURN(const PageRequest page,
                          ParsePageRequest(request.page_size(), request.page_token(), filter));
  const std::shared_ptr<const JobTable> jobs = parts_.catalog.jobs();
  // ULIDs sort by time: backwards is newest first.
  auto it = page.after_id.empty() ? jobs->end() : jobs->lower_bound(page.after_id);
  while (it != jobs->begin()) {
    const v1::Job& job = (--it)->second->job();
    if (job.project() != caller.project) continue;
    if (!request.display_name().empty() &&
        job.resolved().spec().display_name() != request.display_name())
      continue;
    if (request.states_size() > 0 && std::find(request.states().begin(), request.states().end(),
                                               job.state()) == request.states().end()) {
      continue;
    }
    if (response->jobs_size() == page.size) {
      response->set_next_page_token(MakePageToken(std::next(it)->first, filter));
      break;
    }
    *response->add_jobs() = job;
  }
  return absl::OkStatus();
}

absl::Status FineTuningServiceImpl::Delete(const grpc::ServerContext& context,
                                           const v1::DeleteJobRequest& request) {
  ANNEAL_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authenticator.CallerOf(context, Right::kWrite));
  ANNEAL_ASSIGN_OR_RETURN(const std::string id, JobIdOf(request.name()));
  ANNEAL_RETURN_IF_ERROR(Await([&](EventSink::JobReply reply) {
                           parts_.sink.DeleteJob(caller.project, id, std::move(reply));
                         }).status());
  for (const std::string& path : {OutputPath(id), JobPath(id), PreparedPath(id)}) {
    if (absl::Status status = parts_.storage.MoveToTrash(path); !status.ok()) {
      // The job is gone for its user; what stays behind only takes space.
      ANNEAL_LOG(WARNING) << "files of a deleted job stay behind" << Field("path", path)
                          << Field("why", status.message());
    }
  }
  return absl::OkStatus();
}

absl::Status FineTuningServiceImpl::Act(const grpc::ServerContext& context,
                                        const v1::JobActionRequest& request, LifecycleEvent event,
                                        v1::Job* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Caller caller,
                          parts_.authenticator.CallerOf(context, Right::kWrite));
  ANNEAL_ASSIGN_OR_RETURN(const std::string id, JobIdOf(request.name()));
  ANNEAL_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  ANNEAL_ASSIGN_OR_RETURN(const Record record, Await([&](EventSink::JobReply reply) {
                            parts_.sink.ChangeJob(caller.project, id, std::move(event),
                                                  std::move(reply));
                          }));
  *response = record->job();
  return absl::OkStatus();
}

absl::Status FineTuningServiceImpl::ListEvents(const grpc::ServerContext& context,
                                               const v1::ListJobEventsRequest& request,
                                               v1::ListJobEventsResponse* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Record record, Find(context, request.name()));
  ANNEAL_ASSIGN_OR_RETURN(const int limit, LimitOf(request.page_size(), 50, 1000));
  ANNEAL_ASSIGN_OR_RETURN(std::vector<v1::JobEvent> events,
                          parts_.history.ReadEvents(record->id(), request.after_sequence(), limit));
  for (v1::JobEvent& event : events) *response->add_events() = std::move(event);
  if (response->events_size() == limit)
    response->set_next_sequence(response->events(limit - 1).sequence());
  return absl::OkStatus();
}

absl::Status FineTuningServiceImpl::ListSteps(const grpc::ServerContext& context,
                                              const v1::ListStepMetricsRequest& request,
                                              v1::ListStepMetricsResponse* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Record record, Find(context, request.name()));
  ANNEAL_ASSIGN_OR_RETURN(const int limit, LimitOf(request.page_size(), 1000, 10000));
  ANNEAL_ASSIGN_OR_RETURN(std::vector<v1::StepMetrics> steps,
                          parts_.history.ReadSteps(record->id(), request.after_step(), limit));
  for (v1::StepMetrics& step : steps) *response->add_steps() = std::move(step);
  if (response->steps_size() == limit) response->set_next_step(response->steps(limit - 1).step());
  ANNEAL_ASSIGN_OR_RETURN(std::optional<v1::EvaluationPoint> before,
                          parts_.history.ReadFirstEvaluation(record->id()));
  if (before.has_value()) *response->mutable_before() = *std::move(before);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<PumpedWriter<v1::WatchJobResponse>>> FineTuningServiceImpl::Watch(
    const grpc::CallbackServerContext& context, const v1::WatchJobRequest& request) {
  ANNEAL_ASSIGN_OR_RETURN(const Record record, Find(context, request.name()));
  if (request.after_sequence() < 0) return InvalidField("after_sequence", "is negative");
  if (request.after_step() < 0) return InvalidField("after_step", "is negative");
  const WatchJobStream::Parts parts{parts_.pump, parts_.catalog, parts_.history, parts_.clock};
  ANNEAL_ASSIGN_OR_RETURN(ProjectLimits::Stream place,
                          parts_.limits.OpenStream(record->job().project()));
  return std::make_shared<WatchJobStream>(parts, std::move(place), record->job().project(),
                                          record->id(), request);
}

absl::StatusOr<std::shared_ptr<PumpedWriter<v1::LogChunk>>> FineTuningServiceImpl::ReadLog(
    const grpc::CallbackServerContext& context, const v1::ReadJobLogRequest& request) {
  ANNEAL_ASSIGN_OR_RETURN(const Record record, Find(context, request.name()));
  if (request.offset() < 0) return InvalidField("offset", "is negative");
  if (request.rank() < -1) return InvalidField("rank", "is not a rank, nor -1 for prepare");
  const int64_t generation =
      request.generation() == 0 ? record->job().generation() : request.generation();
  if (request.rank() >= 0 && (generation < 1 || generation > record->job().generation())) {
    return WithReason(
        absl::NotFoundError(absl::StrCat(record->job().name(), " has not run generation ",
                                         std::max<int64_t>(1, generation))),
        "NOT_FOUND");
  }
  const ReadJobLogStream::Parts parts{parts_.pump, parts_.catalog, parts_.storage};
  ANNEAL_ASSIGN_OR_RETURN(ProjectLimits::Stream place,
                          parts_.limits.OpenStream(record->job().project()));
  return std::make_shared<ReadJobLogStream>(parts, std::move(place), record->job().project(),
                                            record->id(), generation, request);
}

grpc::Status FineTuningServiceImpl::CheckJob(grpc::ServerContext* context,
                                             const v1::CheckJobRequest* request,
                                             v1::CheckJobResponse* response) {
  return ToGrpcStatus(Check(*context, *request, response));
}
grpc::Status FineTuningServiceImpl::CreateJob(grpc::ServerContext* context,
                                              const v1::CreateJobRequest* request,
                                              v1::Job* response) {
  return ToGrpcStatus(Create(*context, *request, response));
}
grpc::Status FineTuningServiceImpl::GetJob(grpc::ServerContext* context,
                                           const v1::GetJobRequest* request, v1::Job* response) {
  absl::StatusOr<Record> record = Find(*context, request->name());
  if (record.ok()) *response = (*record)->job();
  return ToGrpcStatus(record.status());
}
grpc::Status FineTuningServiceImpl::ListJobs(grpc::ServerContext* context,
                                             const v1::ListJobsRequest* request,
                                             v1::ListJobsResponse* response) {
  return ToGrpcStatus(List(*context, *request, response));
}
grpc::Status FineTuningServiceImpl::DeleteJob(grpc::ServerContext* context,
                                              const v1::DeleteJobRequest* request,
                                              google::protobuf::Empty*) {
  return ToGrpcStatus(Delete(*context, *request));
}
grpc::Status FineTuningServiceImpl::CancelJob(grpc::ServerContext* context,
                                              const v1::JobActionRequest* request,
                                              v1::Job* response) {
  return ToGrpcStatus(Act(*context, *request, CancelRequested{request->request_id()}, response));
}
grpc::Status FineTuningServiceImpl::PauseJob(grpc::ServerContext* context,
                                             const v1::JobActionRequest* request,
                                             v1::Job* response) {
  return ToGrpcStatus(Act(*context, *request, PauseRequested{request->request_id()}, response));
}
grpc::Status FineTuningServiceImpl::ResumeJob(grpc::ServerContext* context,
                                              const v1::JobActionRequest* request,
                                              v1::Job* response) {
  ResumeRequested event{request->request_id(), std::nullopt};
  if (request->has_slots()) event.slots = request->slots();
  return ToGrpcStatus(Act(*context, *request, std::move(event), response));
}
grpc::Status FineTuningServiceImpl::FinishJob(grpc::ServerContext* context,
                                              const v1::JobActionRequest* request,
                                              v1::Job* response) {
  return ToGrpcStatus(Act(*context, *request, FinishRequested{request->request_id()}, response));
}
grpc::Status FineTuningServiceImpl::RequestStacks(grpc::ServerContext* context,
                                                  const v1::JobActionRequest* request,
                                                  v1::Job* response) {
  return ToGrpcStatus(Act(*context, *request, StacksRequested{}, response));
}
grpc::Status FineTuningServiceImpl::ListJobEvents(grpc::ServerContext* context,
                                                  const v1::ListJobEventsRequest* request,
                                                  v1::ListJobEventsResponse* response) {
  return ToGrpcStatus(ListEvents(*context, *request, response));
}
grpc::Status FineTuningServiceImpl::ListStepMetrics(grpc::ServerContext* context,
                                                    const v1::ListStepMetricsRequest* request,
                                                    v1::ListStepMetricsResponse* response) {
  return ToGrpcStatus(ListSteps(*context, *request, response));
}
grpc::Status FineTuningServiceImpl::ListCheckpoints(grpc::ServerContext* context,
                                                    const v1::ListCheckpointsRequest* request,
                                                    v1::ListCheckpointsResponse* response) {
  absl::StatusOr<Record> record = Find(*context, request->name());
  if (!record.ok()) return ToGrpcStatus(record.status());
  if (CheckpointsExpired(**record, parts_.clock.TimeNow())) return grpc::Status::OK;
  for (const internal::CheckpointRecord& checkpoint : (*record)->checkpoints())
    *response->add_checkpoints() = CheckpointFrom(**record, checkpoint);
  return grpc::Status::OK;
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* FineTuningServiceImpl::WatchJob(
    grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) {
  auto stream = Watch(*context, *request);
  if (!stream.ok()) return new RefusedWriter<v1::WatchJobResponse>(stream.status());
  return PumpedWriter<v1::WatchJobResponse>::Start(*std::move(stream));
}
grpc::ServerWriteReactor<v1::LogChunk>* FineTuningServiceImpl::ReadJobLog(
    grpc::CallbackServerContext* context, const v1::ReadJobLogRequest* request) {
  auto stream = ReadLog(*context, *request);
  if (!stream.ok()) return new RefusedWriter<v1::LogChunk>(stream.status());
  return PumpedWriter<v1::LogChunk>::Start(*std::move(stream));
}

}  // namespace anneal
