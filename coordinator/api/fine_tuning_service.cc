#include "coordinator/api/fine_tuning_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/rpc/paging.h"
#include "common/rpc/request_id.h"
#include "common/rpc/status.h"
#include "common/spec/origins.h"
#include "common/spec/training_difference.h"
#include "common/storage/layout.h"
#include "coordinator/api/read_job_log.h"
#include "coordinator/api/resource_names.h"
#include "coordinator/api/watch_job.h"
#include "coordinator/lifecycle/checkpoints.h"
#include "coordinator/lifecycle/shown_job.h"
#include "coordinator/lifecycle/states.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace anneal {
namespace {

constexpr int kMaxRequestIdLength = 64;

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

// Answers the call with the job that the loop tells of.
EventSink::JobReply ReplyTo(v1::Job* response, FinishCall finish) {
  return [response, finish = std::move(finish)](
             const absl::StatusOr<std::shared_ptr<const internal::JobRecord>>& result) {
    if (result.ok()) ShowJob(**result, response);
    finish(result.status());
  };
}

// The same for a job that the call has made, whose origins it knows; unless it turns out that an
// earlier call has made it, or something has changed them.
EventSink::JobReply ReplyWithNew(const internal::JobRecord& made, spec::Origins origins,
                                 v1::Job* response, FinishCall finish) {
  auto known = std::make_shared<spec::Origins>(std::move(origins));
  return [response, finish = std::move(finish), known = std::move(known), id = made.id(),
          packed = made.origins()](
             const absl::StatusOr<std::shared_ptr<const internal::JobRecord>>& result) {
    if (result.ok() && (*result)->id() == id && (*result)->origins() == packed) {
      ShowJob(**result, *known, response);
    } else if (result.ok()) {
      ShowJob(**result, response);
    }
    finish(result.status());
  };
}

}  // namespace

FineTuningServiceImpl::FineTuningServiceImpl(const Parts& parts)
    : parts_(parts),
      room_(parts.storage.files(), parts.clock, {parts.data_dir, parts.storage.path()},
            parts.min_free_bytes) {
  SetMessageAllocatorFor_CreateJob(&create_messages_);
  SetMessageAllocatorFor_GetJob(&get_messages_);
}

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

absl::Status FineTuningServiceImpl::Check(const Caller& caller, const v1::CheckJobRequest& request,
                                          v1::CheckJobResponse* response) {
  ANNEAL_ASSIGN_OR_RETURN(
      SpecResolver::Result result,
      parts_.resolver.Resolve(caller.project, request.spec(), parts_.clock.TimeNow()));
  *response->mutable_resolved() = std::move(result.resolution.job);
  spec::PutOrigins(result.origins, response->mutable_resolved());
  for (v1::Issue& issue : result.resolution.issues) *response->add_issues() = std::move(issue);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<internal::JobRecord>> FineTuningServiceImpl::MakeRecord(
    const Caller& caller, const v1::CreateJobRequest& request, spec::Origins* origins,
    v1::Job* response) {
  ANNEAL_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  auto record = std::make_unique<internal::JobRecord>();
  record->set_request_id(request.request_id());
  record->set_request_sha256(RequestSha256(request));
  // A repetition gets the first job even if what it named is gone by now. The loop decides; this
  // only saves the looking up.
  const Record first = parts_.catalog.FindRequest(caller.project, request.request_id());
  if (first != nullptr && first->request_sha256() == record->request_sha256()) {
    ShowJob(*first, response);
    return nullptr;
  }
  ANNEAL_RETURN_IF_ERROR(room_.Check());
  ANNEAL_RETURN_IF_ERROR(parts_.limits.AdmitStorage(caller.project, 0));
  ANNEAL_RETURN_IF_ERROR(parts_.limits.AdmitJob(caller.project));
  const absl::Time now = parts_.clock.TimeNow();
  ANNEAL_ASSIGN_OR_RETURN(SpecResolver::Result result,
                          parts_.resolver.Resolve(caller.project, request.spec(), now));
  if (!result.resolution.ok() || spec::HasErrors(result.resolution.issues))
    return RefusalOf(result.resolution.issues);
  record->set_id(NewUlid(now, parts_.random));
  record->set_hold_after_validation(request.hold_after_validation());
  *record->mutable_inputs() = std::move(result.inputs);
  v1::Job& job = *record->mutable_job();
  job.set_name(absl::StrCat("jobs/", record->id()));
  job.set_project(caller.project);
  job.set_creator(caller.creator);
  *job.mutable_spec() = request.spec();
  *job.mutable_resolved() = std::move(result.resolution.job);
  KeepOrigins(result.origins, record.get());
  *origins = std::move(result.origins);
  if (!request.parent().empty()) ANNEAL_RETURN_IF_ERROR(CarryOn(request.parent(), record.get()));
  return record;
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

absl::Status FineTuningServiceImpl::List(const Caller& caller, const v1::ListJobsRequest& request,
                                         v1::ListJobsResponse* response) {
  const std::string filter = absl::StrCat(
      caller.project, "\n", absl::StrJoin(request.states(), ","), "\n", request.display_name());
  ANNEAL_ASSIGN_OR_RETURN(const PageRequest page,
                          ParsePageRequest(request.page_size(), request.page_token(), filter));
  const std::shared_ptr<const JobTable> jobs = parts_.catalog.jobs();
  // ULIDs sort by time: backwards is newest first.
  auto it = page.after_id.empty() ? jobs->end() : jobs->lower_bound(page.after_id);
  while (it != jobs->begin()) {
    const internal::JobRecord& record = *(--it)->second;
    const v1::Job& job = record.job();
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
    ShowJob(record, response->add_jobs());
  }
  return absl::OkStatus();
}

void FineTuningServiceImpl::MoveFilesToTrash(const std::string& id) {
  for (const std::string& path : {OutputPath(id), JobPath(id), PreparedPath(id)}) {
    if (absl::Status status = parts_.storage.MoveToTrash(path); !status.ok()) {
      // The job is gone for its user; what stays behind only takes space.
      ANNEAL_LOG(WARNING) << "files of a deleted job stay behind" << Field("job", id)
                          << Field("path", path) << Field("why", status.message());
    }
  }
}

grpc::ServerUnaryReactor* FineTuningServiceImpl::Act(grpc::CallbackServerContext& context,
                                                     const v1::JobActionRequest& request,
                                                     LifecycleEvent event, v1::Job* response) {
  return BeginOnPool(parts_.pool, parts_.authenticator, Right::kWrite, context,
                     [this, &context, &request, event = std::move(event), response](
                         const Caller& caller, const FinishCall& finish) {
                       const absl::StatusOr<std::string> id = JobIdOf(request.name());
                       if (!id.ok()) return finish(id.status());
                       if (absl::Status status = CheckRequestId(request.request_id()); !status.ok())
                         return finish(status);
                       parts_.sink.ChangeJob(caller.project, *id, event,
                                             std::string(RequestIdOf(context)),
                                             ReplyTo(response, finish));
                     });
}

absl::Status FineTuningServiceImpl::ListEvents(const Caller& caller,
                                               const v1::ListJobEventsRequest& request,
                                               v1::ListJobEventsResponse* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Record record, FindIn(caller.project, request.name()));
  ANNEAL_ASSIGN_OR_RETURN(const int limit, LimitOf(request.page_size(), 50, 1000));
  ANNEAL_ASSIGN_OR_RETURN(std::vector<v1::JobEvent> events,
                          parts_.history.ReadEvents(record->id(), request.after_sequence(), limit));
  for (v1::JobEvent& event : events) *response->add_events() = std::move(event);
  if (response->events_size() == limit)
    response->set_next_sequence(response->events(limit - 1).sequence());
  return absl::OkStatus();
}

absl::Status FineTuningServiceImpl::ListSteps(const Caller& caller,
                                              const v1::ListStepMetricsRequest& request,
                                              v1::ListStepMetricsResponse* response) {
  ANNEAL_ASSIGN_OR_RETURN(const Record record, FindIn(caller.project, request.name()));
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
  const ReadJobLogStream::Parts parts{parts_.pump, parts_.transfers, parts_.catalog,
                                      parts_.storage};
  ANNEAL_ASSIGN_OR_RETURN(ProjectLimits::Stream place,
                          parts_.limits.OpenStream(record->job().project()));
  return std::make_shared<ReadJobLogStream>(parts, std::move(place), record->job().project(),
                                            record->id(), generation, request);
}

grpc::ServerUnaryReactor* FineTuningServiceImpl::CheckJob(grpc::CallbackServerContext* context,
                                                          const v1::CheckJobRequest* request,
                                                          v1::CheckJobResponse* response) {
  return AnswerOnPool(
      parts_.pool, parts_.authenticator, Right::kRead, *context,
      [=, this](const Caller& caller) { return Check(caller, *request, response); });
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::CreateJob(grpc::CallbackServerContext* context,
                                                           const v1::CreateJobRequest* request,
                                                           v1::Job* response) {
  return BeginOnPool(parts_.pool, parts_.authenticator, Right::kWrite, *context,
                     [=, this](const Caller& caller, const FinishCall& finish) {
                       spec::Origins origins;
                       absl::StatusOr<std::unique_ptr<internal::JobRecord>> record =
                           MakeRecord(caller, *request, &origins, response);
                       if (!record.ok() || *record == nullptr) return finish(record.status());
                       EventSink::JobReply reply =
                           ReplyWithNew(**record, std::move(origins), response, finish);
                       parts_.sink.CreateJob(std::move(**record),
                                             std::string(RequestIdOf(*context)), std::move(reply));
                     });
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::GetJob(grpc::CallbackServerContext* context,
                                                        const v1::GetJobRequest* request,
                                                        v1::Job* response) {
  return AnswerAtOnce(parts_.authenticator, Right::kRead, *context,
                      [=, this](const Caller& caller) -> absl::Status {
                        ANNEAL_ASSIGN_OR_RETURN(const Record record,
                                                FindIn(caller.project, request->name()));
                        ShowJob(*record, response);
                        return absl::OkStatus();
                      });
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::ListJobs(grpc::CallbackServerContext* context,
                                                          const v1::ListJobsRequest* request,
                                                          v1::ListJobsResponse* response) {
  return AnswerOnPool(parts_.pool, parts_.authenticator, Right::kRead, *context,
                      [=, this](const Caller& caller) { return List(caller, *request, response); });
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::DeleteJob(grpc::CallbackServerContext* context,
                                                           const v1::DeleteJobRequest* request,
                                                           google::protobuf::Empty*) {
  return BeginOnPool(parts_.pool, parts_.authenticator, Right::kWrite, *context,
                     [=, this](const Caller& caller, const FinishCall& finish) {
                       const absl::StatusOr<std::string> id = JobIdOf(request->name());
                       if (!id.ok()) return finish(id.status());
                       parts_.sink.DeleteJob(
                           caller.project, *id, std::string(RequestIdOf(*context)),
                           [this, id = *id, finish](const absl::StatusOr<Record>& deleted) {
                             parts_.pool.Post([this, id, finish, status = deleted.status()] {
                               if (status.ok()) MoveFilesToTrash(id);
                               finish(status);
                             });
                           });
                     });
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::CancelJob(grpc::CallbackServerContext* context,
                                                           const v1::JobActionRequest* request,
                                                           v1::Job* response) {
  return Act(*context, *request, CancelRequested{request->request_id()}, response);
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::PauseJob(grpc::CallbackServerContext* context,
                                                          const v1::JobActionRequest* request,
                                                          v1::Job* response) {
  return Act(*context, *request, PauseRequested{request->request_id()}, response);
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::ResumeJob(grpc::CallbackServerContext* context,
                                                           const v1::JobActionRequest* request,
                                                           v1::Job* response) {
  ResumeRequested event{request->request_id(), std::nullopt};
  if (request->has_slots()) event.slots = request->slots();
  return Act(*context, *request, std::move(event), response);
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::FinishJob(grpc::CallbackServerContext* context,
                                                           const v1::JobActionRequest* request,
                                                           v1::Job* response) {
  return Act(*context, *request, FinishRequested{request->request_id()}, response);
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::RequestStacks(grpc::CallbackServerContext* context,
                                                               const v1::JobActionRequest* request,
                                                               v1::Job* response) {
  return Act(*context, *request, StacksRequested{}, response);
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::ListJobEvents(
    grpc::CallbackServerContext* context, const v1::ListJobEventsRequest* request,
    v1::ListJobEventsResponse* response) {
  return AnswerOnPool(
      parts_.pool, parts_.authenticator, Right::kRead, *context,
      [=, this](const Caller& caller) { return ListEvents(caller, *request, response); });
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::ListStepMetrics(
    grpc::CallbackServerContext* context, const v1::ListStepMetricsRequest* request,
    v1::ListStepMetricsResponse* response) {
  return AnswerOnPool(
      parts_.pool, parts_.authenticator, Right::kRead, *context,
      [=, this](const Caller& caller) { return ListSteps(caller, *request, response); });
}
grpc::ServerUnaryReactor* FineTuningServiceImpl::ListCheckpoints(
    grpc::CallbackServerContext* context, const v1::ListCheckpointsRequest* request,
    v1::ListCheckpointsResponse* response) {
  return AnswerAtOnce(parts_.authenticator, Right::kRead, *context,
                      [=, this](const Caller& caller) -> absl::Status {
                        ANNEAL_ASSIGN_OR_RETURN(const Record record,
                                                FindIn(caller.project, request->name()));
                        if (CheckpointsExpired(*record, parts_.clock.TimeNow()))
                          return absl::OkStatus();
                        for (const internal::CheckpointRecord& checkpoint : record->checkpoints())
                          *response->add_checkpoints() = CheckpointFrom(*record, checkpoint);
                        return absl::OkStatus();
                      });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* FineTuningServiceImpl::WatchJob(
    grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) {
  auto stream = Watch(*context, *request);
  if (!stream.ok()) return new RefusedWriter<v1::WatchJobResponse>(stream.status());
  return PumpedWriter<v1::WatchJobResponse>::Start(*std::move(stream),
                                                   parts_.authenticator.RecheckOf(*context));
}
grpc::ServerWriteReactor<v1::LogChunk>* FineTuningServiceImpl::ReadJobLog(
    grpc::CallbackServerContext* context, const v1::ReadJobLogRequest* request) {
  auto stream = ReadLog(*context, *request);
  if (!stream.ok()) return new RefusedWriter<v1::LogChunk>(stream.status());
  return PumpedWriter<v1::LogChunk>::Start(*std::move(stream),
                                           parts_.authenticator.RecheckOf(*context));
}

}  // namespace anneal
