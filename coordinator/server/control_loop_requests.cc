// What users and operators ask of the loop.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "coordinator/lifecycle/states.h"
#include "coordinator/server/control_loop.h"

namespace anneal {
namespace {

// What a request hears whose turn could not be committed.
absl::Status NotKept(const absl::Status& status) {
  const std::string message =
      absl::StrCat("the catalog cannot be written; try again: ", status.message());
  return absl::IsResourceExhausted(status)
             ? WithReason(absl::ResourceExhaustedError(message), "STORAGE_FULL")
             : absl::UnavailableError(message);
}

}  // namespace

std::vector<Field> ControlLoop::CallField(const std::string& call) {
  return call.empty() ? std::vector<Field>() : std::vector<Field>{Field("request_id", call)};
}

std::string ControlLoop::RequestKey(const internal::JobRecord& record) {
  return absl::StrCat(record.job().project(), "\n", record.request_id());
}

absl::Status ControlLoop::NoSuchJob(const std::string& id) {
  return WithReason(absl::NotFoundError(absl::StrCat("no jobs/", id)), "NOT_FOUND");
}

void ControlLoop::ReplyWith(std::string id, JobReply reply, Turn& turn) {
  turn.replies.push_back(
      [this, id = std::move(id), reply = std::move(reply)](const absl::Status& committed) mutable {
        absl::StatusOr<std::shared_ptr<const internal::JobRecord>> answer = NoSuchJob(id);
        const auto found = jobs_.find(id);
        if (found != jobs_.end()) answer = found->second;
        if (!committed.ok()) answer = NotKept(committed);
        return [reply = std::move(reply), answer = std::move(answer)] { reply(answer); };
      });
}

const std::string* ControlLoop::FindRequest(const std::string& key, const Turn& turn) const {
  for (const std::map<std::string, std::string>* requests : {&requests_, &turn.new_requests}) {
    if (const auto found = requests->find(key); found != requests->end()) return &found->second;
  }
  return nullptr;
}

absl::Status ControlLoop::CheckResources(const internal::JobRecord& record, const Turn& turn) {
  absl::StatusOr<std::string> missing = parts_.store.FindMissingResource(record);
  if (!missing.ok()) return NotKept(missing.status());
  for (const std::string& deleted : turn.change.deleted_jobs) {
    const auto& named = record.inputs().resources();
    const std::string job = absl::StrCat("jobs/", deleted);
    if (std::find(named.begin(), named.end(), job) != named.end()) missing = job;
  }
  if (missing->empty()) return absl::OkStatus();
  return WithReason(absl::FailedPreconditionError(absl::StrCat(*missing, " was deleted")),
                    "NOT_FOUND");
}

absl::StatusOr<std::string> ControlLoop::Create(internal::JobRecord record, const std::string& call,
                                                Turn& turn) {
  const std::string key = RequestKey(record);
  if (const std::string* first = FindRequest(key, turn);
      first != nullptr && !record.request_id().empty()) {
    if (Find(*first, turn)->request_sha256() == record.request_sha256()) return *first;
    return WithReason(absl::AlreadyExistsError(absl::StrCat("request_id '", record.request_id(),
                                                            "' has made jobs/", *first,
                                                            " from a different request")),
                      "REQUEST_ID_REUSED");
  }
  ANNEAL_RETURN_IF_ERROR(CheckResources(record, turn));
  const std::string id = record.id();
  StepResult created = CreateJobRecord(std::move(record), turn.now);
  for (v1::JobEvent& event : created.events) turn.change.events.emplace_back(id, std::move(event));
  ANNEAL_LOG(INFO) << "job created" << Field("job", id)
                   << Field("name", created.record.job().resolved().spec().display_name())
                   << CallField(call);
  if (!created.record.request_id().empty()) turn.new_requests[key] = id;
  turn.changed[id] = std::make_shared<internal::JobRecord>(std::move(created.record));
  return id;
}

void ControlLoop::Handle(CreateMessage& message, Turn& turn) {
  absl::StatusOr<std::string> id = Create(std::move(message.record), message.call, turn);
  if (id.ok()) {
    ReplyWith(*id, std::move(message.reply), turn);
  } else {
    Refuse(id.status(), std::move(message.reply), turn);
  }
}

void ControlLoop::Handle(ChangeMessage& message, Turn& turn) {
  const internal::JobRecord* record = Find(message.id, turn);
  const bool visible = record != nullptr && record->job().project() == message.project;
  turn.call = message.call;
  const absl::Status status =
      visible ? Apply(message.id, message.event, turn) : NoSuchJob(message.id);
  turn.call.clear();
  if (status.ok()) {
    ReplyWith(message.id, std::move(message.reply), turn);
  } else {
    Refuse(status, std::move(message.reply), turn);
  }
}

absl::Status ControlLoop::CheckDeletable(const std::string& project, const std::string& id,
                                         const Turn& turn) const {
  const internal::JobRecord* record = Find(id, turn);
  if (record == nullptr || record->job().project() != project) return NoSuchJob(id);
  if (!IsTerminal(record->job().state())) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("jobs/", id, " is ", StateName(record->job().state()),
                                       ": cancel it before you delete it")),
                      "WRONG_STATE");
  }
  const std::string name = absl::StrCat("jobs/", id);
  const auto check = [&name](const internal::JobRecord& live) -> absl::Status {
    const auto& resources = live.inputs().resources();
    if (IsTerminal(live.job().state()) ||
        std::find(resources.begin(), resources.end(), name) == resources.end()) {
      return absl::OkStatus();
    }
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(name, " is what ", live.job().name(),
                                                   " starts from: wait for that, or cancel it")),
        "IN_USE");
  };
  for (const auto& [other, live] : live_) ANNEAL_RETURN_IF_ERROR(check(*live));
  for (const auto& [other, changed] : turn.changed) ANNEAL_RETURN_IF_ERROR(check(*changed));
  return absl::OkStatus();
}

void ControlLoop::Handle(DeleteMessage& message, Turn& turn) {
  if (absl::Status status = CheckDeletable(message.project, message.id, turn); !status.ok()) {
    return Refuse(std::move(status), std::move(message.reply), turn);
  }
  turn.change.deleted_jobs.push_back(message.id);
  turn.replies.push_back([last = jobs_.at(message.id), call = std::move(message.call),
                          reply = std::move(message.reply)](const absl::Status& committed) {
    absl::StatusOr<std::shared_ptr<const internal::JobRecord>> answer = last;
    if (committed.ok()) {
      ANNEAL_LOG(INFO) << "job deleted" << Field("job", last->id()) << CallField(call);
    } else {
      answer = NotKept(committed);
    }
    return [reply, answer = std::move(answer)] { reply(answer); };
  });
}

void ControlLoop::Handle(DrainMessage& message, Turn& turn) {
  if (absl::Status status = fleet_.SetDrained(message.worker, message.drained); !status.ok()) {
    return Refuse(std::move(status), std::move(message.reply), turn);
  }
  fleet_heard_ = true;
  turn.replies.push_back([this, worker = message.worker, drained = message.drained,
                          call = std::move(message.call),
                          reply = std::move(message.reply)](const absl::Status& committed) {
    absl::StatusOr<v1::Worker> answer =
        WithReason(absl::NotFoundError(absl::StrCat("workers/", worker, " has left")), "NOT_FOUND");
    const std::shared_ptr<const FleetRoster::Workers> workers = parts_.roster.workers();
    for (const v1::Worker& shown : *workers) {
      if (shown.name() == absl::StrCat("workers/", worker)) answer = shown;
    }
    if (committed.ok()) {
      ANNEAL_LOG(INFO) << (drained ? "worker drained" : "worker undrained")
                       << Field("worker", worker) << CallField(call);
    } else {
      answer = NotKept(committed);
    }
    return [reply, answer = std::move(answer)] { reply(answer); };
  });
}

void ControlLoop::Handle(ExamineMessage& message, Turn&) {
  fleet_.Examine(std::move(message.wanted), std::move(message.sink));
}

}  // namespace anneal
