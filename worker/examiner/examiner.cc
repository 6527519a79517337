#include "worker/examiner/examiner.h"

#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/host/check.h"
#include "common/host/machine_checks.h"
#include "common/host/nvml.h"
#include "common/host/storage_checks.h"
#include "common/spec/proto_time.h"

namespace anneal {

using internal::Examination;
using internal::ExaminationResult;

Examiner::Traces::~Traces() {
  if (!mark.empty()) files.RemoveTree(mark).IgnoreError();
}

Examiner::Examiner(Options options, FileSystem& files, std::function<void()> notify, Clock& clock)
    : options_(std::move(options)),
      files_(files),
      notify_(std::move(notify)),
      clock_(clock),
      thread_("examiner", [this] { Run(); }) {}

Examiner::~Examiner() {
  {
    absl::MutexLock lock(&mu_);
    closing_ = true;
  }
  thread_.Join();
}

void Examiner::Update(const Examination* wanted) {
  absl::MutexLock lock(&mu_);
  if (wanted == nullptr) {
    wanted_.reset();
    result_.reset();
    return;
  }
  if (!result_.has_value() || result_->token() != wanted->token()) {
    result_.emplace();
    result_->set_token(wanted->token());
    *result_->mutable_hear_time() = TimestampOf(clock_.TimeNow());
    has_news_ = true;
  }
  wanted_ = *wanted;
}

std::optional<ExaminationResult> Examiner::result() const {
  absl::MutexLock lock(&mu_);
  std::optional<ExaminationResult> result = result_;
  if (result.has_value()) *result->mutable_send_time() = TimestampOf(clock_.TimeNow());
  return result;
}

bool Examiner::TakeNews() {
  absl::MutexLock lock(&mu_);
  return std::exchange(has_news_, false);
}

bool Examiner::IsWanted(const std::string& token) const {
  absl::MutexLock lock(&mu_);
  return !closing_ && wanted_.has_value() && wanted_->token() == token;
}

void Examiner::Show(const ExaminationResult& result) {
  {
    absl::MutexLock lock(&mu_);
    if (!wanted_.has_value() || wanted_->token() != result.token()) return;
    const google::protobuf::Timestamp hear_time = result_->hear_time();
    result_ = result;
    *result_->mutable_hear_time() = hear_time;
    has_news_ = true;
  }
  notify_();
}

void Examiner::Run() {
  std::unique_ptr<Traces> traces;
  ExaminationResult result;  // of the examination that has begun; without a token if none has
  while (true) {
    std::optional<Examination> wanted;
    {
      absl::MutexLock lock(&mu_);
      auto has_work = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        if (closing_) return true;
        if (!wanted_.has_value()) return !result.token().empty();
        return wanted_->token() != result.token() ||
               (wanted_->everyone_is_ready() && !result.is_complete());
      };
      mu_.Await(absl::Condition(&has_work));
      if (closing_) return;
      wanted = wanted_;
    }
    if (!wanted.has_value()) {
      traces.reset();
      result.Clear();
      continue;
    }
    if (wanted->token() != result.token()) {
      traces.reset(new Traces{files_, "", nullptr});
      result = LookAtMachine(*wanted, *traces);
    } else {
      LookAtOthers(*wanted, result);
    }
    Show(result);
  }
}

std::string Examiner::FolderOf(const Examination& wanted) const {
  return absl::StrCat(options_.storage_root, "/tmp/doctor-", wanted.token());
}

ExaminationResult Examiner::LookAtMachine(const Examination& wanted, Traces& traces) {
  ANNEAL_LOG(INFO) << "looking this machine over";
  ExaminationResult result;
  result.set_token(wanted.token());
  const auto add = [&result](v1::Check check) { *result.add_checks() = std::move(check); };
  absl::StatusOr<std::vector<GpuDevice>> gpus = std::vector<GpuDevice>();
  if (!options_.nvml_library.empty()) {
    gpus = ListGpus(options_.nvml_library);
    add(CheckGpuDriver(options_.nvml_library));
  }
  add(CheckSharedMemory(gpus.ok() ? static_cast<int>(gpus->size()) : 0));
  add(CheckPorts(options_.data_address));
  absl::StatusOr<std::unique_ptr<LinkListener>> listener =
      LinkListener::Start(options_.data_address, wanted.token());
  if (listener.ok()) {
    traces.listener = *std::move(listener);
    result.set_listen_address(traces.listener->address());
  } else {
    add(FailedCheck("links", listener.status().message(),
                    "others cannot reach this worker: look at --data-address"));
  }
  const std::string folder = FolderOf(wanted);
  add(CheckStorage(files_, absl::StrCat(folder, "/of-", options_.worker), clock_));
  traces.mark = absl::StrCat(folder, "/", options_.worker);
  const absl::Status left = LeaveMark(files_, folder, options_.worker, wanted.token());
  result.set_has_left_mark(left.ok());
  if (!left.ok()) {
    add(FailedCheck("shared storage", left.message(),
                    "let the worker's account write in the storage root"));
  }
  result.set_is_ready(true);
  return result;
}

void Examiner::LookAtOthers(const Examination& wanted, ExaminationResult& result) {
  for (const Examination::Peer& peer : wanted.peers()) {
    if (!IsWanted(wanted.token())) break;
    const absl::StatusOr<LinkMeasurement> measured =
        MeasureLink(options_.data_address, peer.address(), wanted.token(), clock_);
    ExaminationResult::Link& link = *result.add_links();
    link.set_worker(peer.worker());
    if (measured.ok()) {
      link.set_bytes_per_second(measured->bytes_per_second);
      link.set_round_trip_seconds(measured->round_trip_seconds);
    } else {
      link.set_error(std::string(measured.status().message()));
    }
  }
  *result.add_checks() =
      CheckMarks(files_, FolderOf(wanted), {wanted.marks().begin(), wanted.marks().end()},
                 wanted.token(), options_.mark_patience, clock_);
  result.set_is_complete(true);
}

}  // namespace anneal
