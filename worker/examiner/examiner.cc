#include "worker/examiner/examiner.h"

#include <algorithm>
#include <set>
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
#include "common/host/storage_marks.h"
#include "common/protocol/bench_messages.h"
#include "common/spec/proto_time.h"
#include "worker/examiner/short_run.h"

namespace anneal {

using internal::Examination;
using internal::ExaminationResult;

namespace {

// For a trainer to load all of CUDA, from a cold disk at worst.
constexpr absl::Duration kCudaPatience = absl::Seconds(60);

}  // namespace

Examiner::Examiner(Options options, FileSystem& files, std::function<void()> notify, Clock& clock)
    : options_(std::move(options)),
      files_(files),
      notify_(std::move(notify)),
      clock_(clock),
      lender_(options_.slots),
      collectives_({options_.worker, options_.data_address}, lender_, clock),
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
        return wanted_->token() != result.token() || wanted_->step() > result.step();
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
      traces = std::make_unique<Traces>();
      result.Clear();
      result.set_token(wanted->token());
      if (wanted->work() != Examination::WORK_LOOK_AT_MACHINE) {
        *result.add_checks() = WarningCheck(
            "start", "the daemon has started anew meanwhile, and what it had found is gone",
            "see in its log why it ended, and ask again");
      }
    }
    Do(*wanted, *traces, result);
    result.set_step(wanted->step());
    Show(result);
  }
}

void Examiner::Do(const Examination& wanted, Traces& traces, ExaminationResult& result) {
  switch (wanted.work()) {
    case Examination::WORK_LOOK_AT_MACHINE:
      return LookAtMachine(wanted, traces, result);
    case Examination::WORK_LOOK_FOR_MARKS:
      return LookForMarks(wanted, traces, result);
    case Examination::WORK_CHANGE_MARKS:
      return ChangeMarks(wanted, traces, result);
    case Examination::WORK_LOOK_FOR_CHANGES:
      return LookForChanges(wanted, traces, result);
    case Examination::WORK_MEASURE_LINKS:
      return MeasureLinks(wanted, result);
    default:
      return;  // a coordinator's of another version
  }
}

std::string Examiner::FolderOf(const Examination& wanted) const {
  return absl::StrCat(options_.storage_root, "/tmp/doctor-", wanted.token());
}

void Examiner::LookAtMachine(const Examination& wanted, Traces& traces, ExaminationResult& result) {
  ANNEAL_LOG(INFO) << "looking this machine over";
  const auto add = [&result](v1::Check check) { *result.add_checks() = std::move(check); };
  absl::StatusOr<std::vector<GpuDevice>> gpus = std::vector<GpuDevice>();
  if (!options_.nvml_library.empty()) {
    gpus = ListGpus(options_.nvml_library);
    add(CheckGpuDriver(options_.nvml_library));
  }
  if (lender_.Has(v1::ResourceSpec::ACCELERATOR_GPU)) {
    add(CheckTrainerOnGpu(wanted.token()));
    add(CheckRdma(LockableBytes()));
  }
  add(CheckSharedMemory(gpus.ok() ? static_cast<int>(gpus->size()) : 0));
  add(CheckPorts(options_.data_address));
  absl::StatusOr<std::unique_ptr<LinkListener>> listener =
      LinkListener::Start(options_.data_address, wanted.token(), &collectives_);
  if (listener.ok()) {
    traces.listener = *std::move(listener);
    result.set_listen_address(traces.listener->address());
  } else {
    add(FailedCheck("links", listener.status().message(),
                    "others cannot reach this worker: look at --data-address"));
  }
  const std::string folder = FolderOf(wanted);
  add(CheckStorage(files_, absl::StrCat(folder, "/of-", options_.worker), clock_));
  absl::StatusOr<std::unique_ptr<StorageMark>> mark =
      StorageMark::Leave(files_, folder, options_.worker, wanted.token());
  result.set_has_left_mark(mark.ok());
  if (mark.ok()) {
    traces.mark = *std::move(mark);
  } else {
    add(FailedCheck("shared storage", mark.status().message(),
                    "let the worker's account write in the storage root"));
  }
}

// Where no slot is free the library is only loaded: on a device it would take memory.
v1::Check Examiner::CheckTrainerOnGpu(const std::string& token) {
  constexpr char kName[] = "trainer on GPU";
  const auto any =
      std::find_if(options_.slots.begin(), options_.slots.end(), [](const TrainerSlot& slot) {
        return slot.accelerator == v1::ResourceSpec::ACCELERATOR_GPU;
      });
  const std::unique_ptr<SlotLender::Loan> loan = lender_.Borrow(v1::ResourceSpec::ACCELERATOR_GPU);
  std::vector<std::string> arguments = {"check-cuda"};
  if (loan != nullptr) arguments.push_back("--start");
  const auto must_end = [&] { return !IsWanted(token) || (loan != nullptr && loan->is_over()); };
  const auto check = [&]() -> absl::StatusOr<protocol::CudaReport> {
    ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<ShortRun> run,
                            ShortRun::Start(loan != nullptr ? loan->slot() : *any, arguments,
                                            must_end, kCudaPatience, clock_));
    ANNEAL_ASSIGN_OR_RETURN(const Json json, run->AwaitResult());
    return protocol::CudaReportFromJson(json);
  };
  const absl::StatusOr<protocol::CudaReport> report = check();
  if (absl::IsAborted(report.status())) return OkCheck(kName, "skipped: a task needs the slot");
  if (!report.ok()) {
    return FailedCheck(kName, report.status().message(),
                       "jobs on GPUs will fail of it: look at nvidia-smi, and that "
                       "libanneal_trainer_cuda.so and its libraries are installed with "
                       "anneal-trainer");
  }
  return OkCheck(
      kName, absl::StrCat("NCCL ", report->nccl, ", ",
                          report->started.empty() ? "loaded only: busy, no GPU slot is free"
                                                  : absl::StrCat("started: ", report->started)));
}

void Examiner::LookForMarks(const Examination& wanted, Traces& traces, ExaminationResult& result) {
  MarksSeen seen =
      CheckMarks(files_, FolderOf(wanted), {wanted.marks().begin(), wanted.marks().end()},
                 wanted.token(), options_.mark_patience, clock_);
  *result.add_checks() = std::move(seen.check);
  traces.marks_seen = std::move(seen.names);
}

void Examiner::ChangeMarks(const Examination& wanted, Traces& traces, ExaminationResult& result) {
  if (traces.mark != nullptr) {
    const absl::Status changed = traces.mark->Change();
    result.set_has_changed_mark(changed.ok());
    if (!changed.ok()) {
      *result.add_checks() = FailedCheck("shared storage changes", changed.message(),
                                         "let the worker's account write in the storage root");
    }
  }
  // While the others do the same.
  traces.mixture = FindMixture(files_, FolderOf(wanted), traces.marks_seen, wanted.token());
}

void Examiner::LookForChanges(const Examination& wanted, Traces& traces,
                              ExaminationResult& result) {
  const std::set<std::string> changed(wanted.marks().begin(), wanted.marks().end());
  std::vector<std::string> names;
  for (const std::string& name : traces.marks_seen) {
    if (changed.count(name) > 0) names.push_back(name);
  }
  if (names.empty()) return;
  *result.add_checks() = CheckChanges(files_, FolderOf(wanted), names, wanted.token(),
                                      traces.mixture, options_.mark_patience, clock_);
}

void Examiner::MeasureLinks(const Examination& wanted, ExaminationResult& result) {
  const auto cancelled = [this, &wanted] { return !IsWanted(wanted.token()); };
  for (const Examination::Peer& peer : wanted.peers()) {
    if (cancelled()) break;
    ExaminationResult::Link& link = *result.add_links();
    link.set_worker(peer.worker());
    const absl::StatusOr<LinkMeasurement> measured =
        MeasureLink(options_.data_address, peer.address(), wanted.token(), clock_);
    if (!measured.ok()) {
      link.set_error(std::string(measured.status().message()));
      continue;
    }
    link.set_bytes_per_second(measured->bytes_per_second);
    link.set_back_bytes_per_second(measured->back_bytes_per_second);
    link.set_round_trip_seconds(measured->round_trip_seconds);
    for (const auto accelerator :
         {v1::ResourceSpec::ACCELERATOR_CPU, v1::ResourceSpec::ACCELERATOR_GPU}) {
      if (!collectives_.Has(accelerator) || cancelled()) continue;
      absl::StatusOr<std::optional<ExaminationResult::Collective>> collective =
          MeasureCollective(options_.data_address, peer.address(), wanted.token(), accelerator,
                            collectives_, cancelled);
      if (collective.ok() && !collective->has_value()) continue;
      ExaminationResult::Collective& found = *link.add_collectives();
      if (collective.ok()) {
        found = **std::move(collective);
      } else {
        found.set_accelerator(accelerator);
        found.set_error(std::string(collective.status().message()));
      }
    }
  }
}

}  // namespace anneal
