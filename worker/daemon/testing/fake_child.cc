// Stands for anneal-prepare and anneal-trainer, also as a spare: speaks the protocol and does
// nothing. SIGUSR1 makes it write "asked for stacks" to its log. The task's model_dir says how it
// behaves:
//
//   succeed    10 step reports, a result, exit 0
//   crash      writes "about to crash" to its log, exits with status 3 and no record
//   fail       leaves an exit record, exits with status 1
//   abort      kills itself with SIGKILL
//   run        one step report a millisecond until told to stop; PAUSE: exit 0,
//              FINISH: a result and exit 0, NOW: a record and exit 1
//   busy       as run, but never comes to a step boundary to pause at
//   stubborn   as run, but ignores orders and SIGTERM
//   wait       as run, but says that it is overdue inside collective 7
//   greedy     as run, and takes more memory all the time
//   join       rank 0 offers a rendezvous, others wait for it and report it; then as run

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/protocol/child_channel.h"
#include "common/protocol/child_start.h"

namespace {

using anneal::Clock;
using anneal::UniqueFd;
using anneal::protocol::ChildChannel;
using anneal::protocol::ChildStart;
using anneal::protocol::StopMode;

constexpr absl::Duration kPatience = absl::Minutes(1);

int Leave(const ChildChannel& channel, const anneal::protocol::ExitRecord& record) {
  ANNEAL_CHECK_OK(anneal::protocol::WriteExitRecord(channel.run_dir(), record));
  return record.status_code == 0 ? 0 : 1;
}

int Finish(ChildChannel& channel, int64_t steps) {
  ANNEAL_CHECK_OK(channel.SendReport(
      {.result = anneal::protocol::ResultReport{.last_loss = static_cast<double>(steps)}}));
  return Leave(channel, {.message = "done"});
}

void SendStep(ChildChannel& channel, int64_t step) {
  ANNEAL_CHECK_OK(channel.SendReport({.step = anneal::protocol::StepReport{.step = step}}));
  channel.SetRankReport(
      {.step = step, .forward_seconds = 0.25 * static_cast<double>(step), .tokens = 100 * step});
}

void Join(ChildChannel& channel) {
  if (channel.key().rank == 0) return channel.SetRendezvous("127.0.0.1:4242");
  const absl::StatusOr<std::string> address = channel.WaitForRendezvous(kPatience);
  ANNEAL_CHECK_OK(address.status());
  ANNEAL_CHECK_OK(
      channel.SendReport({.issue = anneal::protocol::IssueReport{.message = *address}}));
}

void SayAsked(int) {
  constexpr char kLine[] = "asked for stacks\n";
  (void)!::write(STDERR_FILENO, kLine, sizeof(kLine) - 1);
}

int Run(ChildChannel& channel, const std::string& mode) {
  const bool stubborn = mode == "stubborn";
  if (stubborn) ::signal(SIGTERM, SIG_IGN);
  channel.SetPhase("train");
  std::vector<std::string> taken;
  for (int64_t step = 1;; ++step) {
    SendStep(channel, step);
    if (mode == "wait")
      channel.SetRankReport({.collective_sequence = 7, .overdue = "inside collective 7"});
    if (mode == "greedy") taken.emplace_back(size_t{1} << 20, '1');
    Clock::Real().Sleep(absl::Milliseconds(1));
    if (stubborn) continue;
    if (channel.stop_requested() == StopMode::kPause && mode != "busy")
      return Leave(channel, {.reason = "PAUSED"});
    if (channel.stop_requested() == StopMode::kFinish) return Finish(channel, step);
    if (channel.stop_requested() == StopMode::kNow)
      return Leave(channel, {.status_code = 1, .reason = "STOPPED"});
  }
}

int Behave(ChildChannel& channel, const std::string& mode) {
  if (mode == "succeed") {
    for (int64_t step = 1; step <= 10; ++step) SendStep(channel, step);
    return Finish(channel, 10);
  }
  if (mode == "crash") {
    std::fprintf(stderr, "about to crash\n");
    return 3;
  }
  if (mode == "fail")
    return Leave(channel, {.status_code = 8, .reason = "OUT_OF_MEMORY", .message = "no room"});
  if (mode == "abort") ::raise(SIGKILL);
  if (mode == "join") Join(channel);
  return Run(channel, mode);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  ::signal(SIGUSR1, &SayAsked);
  if (arguments[0] == "spare") {
    const absl::StatusOr<ChildStart> start =
        anneal::protocol::AwaitChildStart(UniqueFd(anneal::protocol::kSpareFd));
    if (!start.ok()) return 0;
    const absl::Status entered = anneal::protocol::EnterRun(*start);
    if (!entered.ok()) return anneal::protocol::LeaveUnstarted(start->run_dir, entered);
    arguments = start->arguments;
  }
  ANNEAL_CHECK(arguments.size() == 2 && arguments[0] == "--socket");
  absl::StatusOr<std::unique_ptr<ChildChannel>> channel = ChildChannel::Listen(arguments[1]);
  ANNEAL_CHECK_OK(channel.status());
  const absl::StatusOr<anneal::protocol::Start> start = (*channel)->WaitForStart(kPatience);
  if (!start.ok()) return Leave(**channel, {.status_code = 1, .reason = "STOPPED"});
  return Behave(**channel, start->task.value("model_dir", ""));
}
