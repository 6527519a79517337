#include "tools/bench/load/simulated_fleet.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"
#include "common/rpc/channel.h"

namespace anneal::load {
namespace {

bool SameTask(const internal::TaskId& a, const internal::TaskId& b) {
  return a.job() == b.job() && a.generation() == b.generation() && a.kind() == b.kind() &&
         a.rank() == b.rank();
}

void AddReport(const protocol::Report& report, int64_t sequence, internal::TaskObservation* task) {
  internal::Report& out = *task->add_reports();
  out.set_sequence(sequence);
  out.set_json(DumpJson(ToJson(report)));
}

protocol::Report StepReport(int64_t step, absl::Time now) {
  protocol::Report report;
  report.step = protocol::StepReport{.step = step,
                                     .total_steps = 1'000'000,
                                     .train_loss = 1,
                                     .tokens = 100,
                                     .supervised_tokens = 50,
                                     .step_seconds = 2,
                                     .unix_time = absl::ToDoubleSeconds(now - absl::UnixEpoch())};
  return report;
}

}  // namespace

SimulatedWorker::SimulatedWorker(const std::shared_ptr<grpc::Channel>& channel,
                                 const std::string& key, const std::string& name, Clock& clock)
    : clock_(clock), stub_(internal::FleetService::NewStub(channel)) {
  PrepareCall(context_, key, absl::InfiniteDuration());
  observed_.set_worker(name);
  observed_.set_worker_incarnation(absl::ToUnixMillis(clock.TimeNow()));
  observed_.set_prepare_slots(1);
  observed_.set_data_address("127.0.0.1");
  observed_.set_version("simulated");
  v1::Slot& slot = *observed_.add_slots();
  slot.set_id("cpu0");
  slot.set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
  slot.set_device_name("simulated");
  slot.set_threads(1);
  slot.set_memory_bytes(int64_t{16} << 30);
}

void SimulatedWorker::Start() {
  stub_->async()->Sync(&context_, this);
  StartRead(&incoming_);
  {
    absl::MutexLock lock(&mu_);
    Write();
  }
  StartCall();
}

void SimulatedWorker::Tick() {
  absl::MutexLock lock(&mu_);
  for (internal::TaskObservation& task : *observed_.mutable_tasks()) {
    if (task.id().kind() != internal::TaskId::KIND_TRAIN || task.reports_size() > 0) continue;
    ++counts_.steps;
    ++step_;
    AddReport(StepReport(step_, clock_.TimeNow()), step_, &task);
  }
  changed_ = true;
  Write();
}

void SimulatedWorker::Write() {
  if (writing_ || !changed_ || counts_.ended) return;
  outgoing_ = observed_;
  changed_ = false;
  writing_ = true;
  ++counts_.sent;
  StartWrite(&outgoing_);
}

void SimulatedWorker::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mu_);
  writing_ = false;
  if (ok) Write();
}

void SimulatedWorker::OnReadDone(bool ok) {
  if (!ok) return;
  {
    absl::MutexLock lock(&mu_);
    const absl::Duration now = clock_.MonotonicNow();
    ++counts_.received;
    if (std::exchange(answered_, true)) counts_.gaps.push_back(now - last_received_);
    last_received_ = now;
    TakeDesired();
    Write();
  }
  StartRead(&incoming_);
}

void SimulatedWorker::TakeDesired() {
  observed_.set_coordinator_epoch(incoming_.coordinator_epoch());
  auto& tasks = *observed_.mutable_tasks();
  for (int i = tasks.size() - 1; i >= 0; --i) {
    const auto wanted =
        std::find_if(incoming_.tasks().begin(), incoming_.tasks().end(),
                     [&](const auto& task) { return SameTask(task.id(), tasks[i].id()); });
    if (wanted == incoming_.tasks().end()) {
      tasks.DeleteSubrange(i, 1);
      changed_ = true;
      continue;
    }
    auto& reports = *tasks[i].mutable_reports();
    while (!reports.empty() && reports[0].sequence() <= wanted->acknowledged_report())
      reports.DeleteSubrange(0, 1);
  }
  for (const internal::DesiredTask& task : incoming_.tasks()) {
    const bool known = std::any_of(tasks.begin(), tasks.end(), [&](const auto& observed) {
      return SameTask(task.id(), observed.id());
    });
    if (!known) Begin(task);
  }
}

void SimulatedWorker::Begin(const internal::DesiredTask& task) {
  changed_ = true;
  internal::TaskObservation& observation = *observed_.add_tasks();
  *observation.mutable_id() = task.id();
  if (task.id().kind() == internal::TaskId::KIND_TRAIN) {
    observation.set_state(internal::TaskObservation::STATE_RUNNING);
    observation.set_phase("train");
    observation.set_rendezvous("127.0.0.1:40000");
    // Of a task that was begun before, the first steps are known already.
    step_ = task.acknowledged_report();
    return;
  }
  ++counts_.prepared;
  protocol::Report report;
  report.prepared = protocol::PreparedReport{.train_data = "blobs/prepared/simulated.safetensors",
                                             .train_rows = 1000,
                                             .train_tokens = 100'000,
                                             .train_supervised_tokens = 50'000};
  AddReport(report, 1, &observation);
  observation.set_state(internal::TaskObservation::STATE_EXITED);
}

void SimulatedWorker::OnDone(const grpc::Status&) {
  absl::MutexLock lock(&mu_);
  counts_.ended = true;
}

void SimulatedWorker::AwaitEnd() {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&counts_.ended));
}

SimulatedWorker::Counts SimulatedWorker::TakeCounts() {
  absl::MutexLock lock(&mu_);
  Counts counts = std::move(counts_);
  counts_ = Counts{.ended = counts.ended};
  return counts;
}

bool SimulatedWorker::answered() {
  absl::MutexLock lock(&mu_);
  return answered_;
}

SimulatedFleet::SimulatedFleet(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                               const std::string& key, Clock& clock)
    : clock_(clock), last_report_(clock.MonotonicNow()) {
  for (size_t i = 0; i < channels.size(); ++i) {
    workers_.push_back(
        std::make_unique<SimulatedWorker>(channels[i], key, absl::StrCat("sim", i), clock));
    workers_.back()->Start();
  }
  ticker_ = Thread("ticker", [this] { Run(); });
}

SimulatedFleet::~SimulatedFleet() {
  stopping_ = true;
  ticker_.Join();
  for (const auto& worker : workers_) worker->Cancel();
  for (const auto& worker : workers_) worker->AwaitEnd();
}

bool SimulatedFleet::AwaitAnswers(absl::Duration timeout) {
  const absl::Duration end = clock_.MonotonicNow() + timeout;
  const auto answered = [](const auto& worker) { return worker->answered(); };
  while (!std::all_of(workers_.begin(), workers_.end(), answered)) {
    if (clock_.MonotonicNow() >= end) return false;
    clock_.Sleep(absl::Milliseconds(10));
  }
  return true;
}

void SimulatedFleet::Run() {
  const absl::Duration began = clock_.MonotonicNow();
  const absl::Duration between = kSyncEvery / static_cast<int64_t>(workers_.size());
  for (int64_t turn = 0; !stopping_; ++turn) {
    const absl::Duration wait = began + between * turn - clock_.MonotonicNow();
    if (wait > absl::ZeroDuration()) clock_.Sleep(wait);
    workers_[turn % workers_.size()]->Tick();
  }
}

Json SimulatedFleet::Report() {
  Latencies gaps;
  int64_t broken = 0, sent = 0, received = 0, prepared = 0, steps = 0;
  for (const auto& worker : workers_) {
    const SimulatedWorker::Counts counts = worker->TakeCounts();
    for (const absl::Duration gap : counts.gaps) gaps.Add(gap);
    broken += counts.ended;
    sent += counts.sent;
    received += counts.received;
    prepared += counts.prepared;
    steps += counts.steps;
  }
  const absl::Duration now = clock_.MonotonicNow();
  const double seconds = absl::ToDoubleSeconds(now - std::exchange(last_report_, now));
  Json report = gaps.Summary();
  report["workers"] = workers_.size();
  report["broken"] = broken;
  report["seconds"] = seconds;
  report["sent_per_second"] = static_cast<double>(sent) / seconds;
  report["received_per_second"] = static_cast<double>(received) / seconds;
  report["prepared"] = prepared;
  report["steps"] = steps;
  return report;
}

}  // namespace anneal::load
