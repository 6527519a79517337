#include <ATen/Parallel.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/reasons.h"
#include "common/base/status.h"
#include "common/base/thread_stacks.h"
#include "common/format/json.h"
#include "common/format/model_directory.h"
#include "common/plan/sharding.h"
#include "common/protocol/child_channel.h"
#include "common/protocol/messages.h"
#include "common/protocol/run_folder_layout.h"
#include "common/storage/file_system.h"
#include "worker/trainer/collective/solo_communicator.h"
#include "worker/trainer/collective/tcp_store.h"
#include "worker/trainer/commands.h"
#include "worker/trainer/engine/accelerator_loader.h"
#include "worker/trainer/engine/stop_watcher.h"
#include "worker/trainer/engine/trainer.h"
#include "worker/trainer/engine/trainer_host.h"
#include "worker/trainer/engine/watchdog.h"
#include "worker/trainer/engine/watched_communicator.h"
#include "worker/trainer/engine/whereabouts.h"
#include "worker/trainer/export/exporter.h"

namespace anneal::trainer {
namespace {

constexpr absl::Duration kStartTimeout = absl::Minutes(1);
constexpr absl::Duration kJoinTimeout =
    absl::Minutes(5);  // of all ranks, whose nodes may be slow to start
constexpr absl::Duration kFilePollInterval = absl::Milliseconds(20);
constexpr int kExitFailed = 1, kExitBadInput = 2, kExitStopped = 3;

struct Options {
  std::string socket;
  std::string task_file, storage_root, run_dir, rendezvous, rendezvous_file;
  std::optional<int> rank;
  std::optional<int64_t> pause_after;
  std::string die_at, hang_at;
};

// How ranks learn where rank 0's store listens, besides what the trainer itself needs of its
// surroundings.
class Host : public TrainerHost {
 public:
  virtual absl::Status AnnounceRendezvous(const std::string& address) = 0;
  virtual absl::StatusOr<std::string> AwaitRendezvous() = 0;
};

class WorkerHost : public Host {
 public:
  WorkerHost(protocol::ChildChannel& channel, const Whereabouts& whereabouts)
      : channel_(channel), whereabouts_(whereabouts) {}

  protocol::StopMode stop_requested() override {
    const protocol::StopMode mode = channel_.stop_requested();
    return mode == protocol::StopMode::kNow ? protocol::StopMode::kNone : mode;
  }
  void SetPhase(absl::string_view phase) override { channel_.SetPhase(phase); }
  // Passed on at once: a short job ends before the next Tell.
  void SetRankReport(const protocol::RankReport& report) override {
    absl::MutexLock lock(&mu_);
    report_ = report;
    Say(whereabouts_.Look());
  }
  // Passes the newest report on, with where the training thread is: so the worker hears from a rank
  // every second, also when that thread hangs, and then knows where.
  void Tell(const Whereabouts::Position& position) {
    absl::MutexLock lock(&mu_);
    Say(position);
  }
  absl::Status SendReport(const protocol::Report& report) override {
    return channel_.SendReport(report);
  }
  absl::Status AnnounceRendezvous(const std::string& address) override {
    channel_.SetRendezvous(address);
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> AwaitRendezvous() override {
    return channel_.WaitForRendezvous(kJoinTimeout);
  }

 private:
  void Say(const Whereabouts::Position& position) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    report_.phase_seconds = absl::ToDoubleSeconds(position.since);
    report_.collective = position.collective;
    report_.collective_sequence = position.collective_sequence;
    report_.in_collective = position.in_collective;
    report_.overdue = position.in_collective && position.overdue() ? Describe(position) : "";
    channel_.SetRankReport(report_);
  }

  protocol::ChildChannel& channel_;
  const Whereabouts& whereabouts_;
  absl::Mutex mu_;
  protocol::RankReport report_ ABSL_GUARDED_BY(mu_);
};

// Without a worker: reports go to standard output, one JSON object a line.
class ConsoleHost : public Host {
 public:
  explicit ConsoleHost(const Options& options) : options_(options) {}

  protocol::StopMode stop_requested() override {
    const bool pause = options_.pause_after.has_value() && last_step_ + 1 >= *options_.pause_after;
    return pause ? protocol::StopMode::kPause : protocol::StopMode::kNone;
  }
  void SetPhase(absl::string_view) override {}
  void SetRankReport(const protocol::RankReport&) override {}
  absl::Status SendReport(const protocol::Report& report) override {
    if (report.step.has_value()) last_step_ = report.step->step;
    if (report.resumed.has_value()) last_step_ = report.resumed->step;
    std::printf("%s\n", DumpJson(ToJson(report)).c_str());
    std::fflush(stdout);
    return absl::OkStatus();
  }
  absl::Status AnnounceRendezvous(const std::string& address) override {
    if (!options_.rendezvous_file.empty())
      return WriteFileAtomically(options_.rendezvous_file, address);
    std::printf("{\"rendezvous\":\"%s\"}\n", address.c_str());
    std::fflush(stdout);
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> AwaitRendezvous() override {
    if (!options_.rendezvous.empty()) return options_.rendezvous;
    Clock& clock = Clock::Real();
    const absl::Duration deadline = clock.MonotonicNow() + kJoinTimeout;
    while (true) {
      absl::StatusOr<std::string> address = ReadSmallFile(options_.rendezvous_file);
      if (!absl::IsNotFound(address.status()) || clock.MonotonicNow() > deadline) return address;
      clock.Sleep(kFilePollInterval);
    }
  }

 private:
  const Options& options_;
  int64_t last_step_ = 0;  // of rank 0, which alone reports
};

// The process's last words, said once: by main when the run has ended, or by the stop watcher
// before that.
class LastWords {
 public:
  explicit LastWords(std::string run_dir) : run_dir_(std::move(run_dir)) {}

  // The first caller's record is written; a later one waits for the first to end the process, which
  // it does at once.
  void Say(const protocol::ExitRecord& record) {
    {
      absl::MutexLock lock(&mu_);
      const auto never = [] { return false; };
      if (std::exchange(said_, true)) mu_.Await(absl::Condition(&never));
      if (record.status_code != 0) {
        ANNEAL_LOG(ERROR) << "failed" << Field("reason", record.reason)
                          << Field("message", record.message);
      }
    }
    if (run_dir_.empty()) return;
    const absl::Status written = protocol::WriteExitRecord(run_dir_, record);
    if (!written.ok()) ANNEAL_LOG(ERROR) << "no exit record" << Field("error", written.ToString());
  }

 private:
  const std::string run_dir_;
  absl::Mutex mu_;
  bool said_ ABSL_GUARDED_BY(mu_) = false;
};

protocol::ExitRecord RecordOf(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  return {
      .status_code = static_cast<int>(status.code()),
      .reason = status.ok() || !reason.empty() ? reason : absl::StatusCodeToString(status.code()),
      .message = std::string(status.message())};
}

absl::StatusOr<protocol::TrainTask> ReadTask(const Json& json, const std::string& storage_root) {
  ANNEAL_ASSIGN_OR_RETURN(protocol::TrainTask task, protocol::TrainTaskFromJson(json));
  for (std::string* path : {&task.model_dir, &task.train_data, &task.validation_data,
                            &task.data_report, &task.output_dir}) {
    if (!path->empty()) *path = protocol::ResolvePath(storage_root, *path);
  }
  return task;
}

absl::StatusOr<std::unique_ptr<TcpStore>> JoinRendezvous(const protocol::TrainTask& task,
                                                         Host& host) {
  if (task.rank == 0) {
    ANNEAL_ASSIGN_OR_RETURN(auto store, TcpStore::Serve(task.data_address));
    ANNEAL_RETURN_IF_ERROR(host.AnnounceRendezvous(store->address()));
    return store;
  }
  ANNEAL_ASSIGN_OR_RETURN(const std::string address, host.AwaitRendezvous());
  return TcpStore::Connect(address, kJoinTimeout);
}

// Rank 0's store outlives the communicator: other ranks may still be connecting through it.
absl::Status JoinRanks(const protocol::TrainTask& task, Host& host, Accelerator& accelerator,
                       std::unique_ptr<TcpStore>& store,
                       std::unique_ptr<Communicator>& communicator) {
  ANNEAL_ASSIGN_OR_RETURN(store, JoinRendezvous(task, host));
  ANNEAL_ASSIGN_OR_RETURN(
      communicator, accelerator.Connect({.rank = task.rank,
                                         .world_size = task.world_size,
                                         .data_address = task.data_address,
                                         .timeout = absl::Seconds(task.collective_timeout_seconds)},
                                        *store));
  return absl::OkStatus();
}

DecoderOptions OptionsOf(const protocol::TrainTask& task, const Accelerator& accelerator) {
  return {.device = accelerator.device(),
          .compute_type = task.precision == "BF16" ? at::kBFloat16 : at::kFloat};
}

// `digests` gets the hashes of the model's files on rank 0, which exports.
absl::StatusOr<std::unique_ptr<Decoder>> LoadModel(const protocol::TrainTask& task,
                                                   Accelerator& accelerator,
                                                   ModelDigests& digests) {
  // One rank looks for all: they see the same directory.
  if (task.rank == 0 && !task.model_content_hash.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(digests, CheckModelUnchanged(task.model_dir, task.model_content_hash));
  }
  DecoderOptions options = OptionsOf(task, accelerator);
  options.lora = task.lora;
  ANNEAL_ASSIGN_OR_RETURN(const Sharding sharding, ParseSharding(task.sharding));
  options.lent = EffectiveSharding(sharding, task.world_size) == Sharding::kFull;
  return Decoder::Load(task.model_dir, options, accelerator.kernels());
}

absl::StatusOr<Exported> ExportModel(const protocol::TrainTask& task, Accelerator& accelerator,
                                     Communicator& communicator, Decoder& decoder,
                                     ShardedValues& values, const std::string& output_dir,
                                     const ModelDigests& digests) {
  const auto load = [&](const std::string& model_dir, const DecoderOptions& options) {
    return Decoder::Load(model_dir, options, accelerator.kernels());
  };
  return ExportTrained(
      {task, decoder, values, communicator, OptionsOf(task, accelerator), load, digests},
      output_dir);
}

absl::StatusOr<RunEnd> RunTask(const protocol::TrainTask& task, const std::string& storage_root,
                               Host& host, Whereabouts& whereabouts) {
  SetLogContext("trainer", protocol::TaskFields({.job = task.job,
                                                 .generation = task.generation,
                                                 .kind = protocol::TaskKind::kTrain,
                                                 .rank = static_cast<int32_t>(task.rank)}));
  ANNEAL_RETURN_IF_ERROR(CheckTask(task));
  whereabouts.Enter("join", 0, Pace::kUnsteady);
  host.SetPhase("join");
  ANNEAL_ASSIGN_OR_RETURN(const auto accelerator,
                          LoadAccelerator(task.device, {.device_uuid = task.device_uuid}));
  at::set_num_threads(task.threads);
  std::unique_ptr<TcpStore> store;
  std::unique_ptr<Communicator> communicator = MakeSoloCommunicator();
  if (task.world_size > 1) {
    const absl::Status joined = JoinRanks(task, host, *accelerator, store, communicator);
    if (!joined.ok()) return WithReason(joined, kCollectiveFailed);
  }
  WatchedCommunicator watched(*communicator, whereabouts);
  ModelDigests digests;
  const auto load = [&digests](const protocol::TrainTask& of, Accelerator& on) {
    return LoadModel(of, on, digests);
  };
  const auto save = [&digests](const protocol::TrainTask& of, Accelerator& on, Communicator& with,
                               Decoder& decoder, ShardedValues& values, const std::string& dir) {
    return ExportModel(of, on, with, decoder, values, dir, digests);
  };
  return Trainer(task, {storage_root, FileSystem::Posix(), *accelerator, watched, host, whereabouts,
                        Clock::Real(), load, save})
      .Run();
}

// Leaves without destructors: there is nothing left to save, other ranks may be gone, and tearing a
// broken communicator down would wait for them.
[[noreturn]] void Leave(const absl::StatusOr<RunEnd>& end, LastWords& last_words) {
  const absl::Status& status = end.status();
  protocol::ExitRecord record = RecordOf(status);
  if (end.ok() && *end == RunEnd::kPaused) record.reason = "PAUSED";
  last_words.Say(record);
  std::fflush(nullptr);
  if (status.ok()) _exit(0);
  _exit(absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? kExitBadInput : kExitFailed);
}

[[noreturn]] void LeaveStopped(LastWords& last_words) {
  last_words.Say({.status_code = static_cast<int>(absl::StatusCode::kCancelled),
                  .reason = "STOPPED",
                  .message = "told to stop; nothing was published"});
  _exit(kExitStopped);
}

[[noreturn]] void LeaveHung(const Whereabouts::Position& position, int rank,
                            LastWords& last_words) {
  WriteThreadStacks(STDERR_FILENO);
  last_words.Say({.status_code = static_cast<int>(absl::StatusCode::kDeadlineExceeded),
                  .reason = "HUNG",
                  .message = absl::StrCat("rank ", rank, " hangs ", Describe(position))});
  _exit(kExitFailed);
}

[[noreturn]] void RunForWorker(const std::string& socket) {
  const std::string run_dir = socket.substr(0, socket.rfind('/'));
  SetLogContext("trainer", protocol::TaskFieldsOf(run_dir));
  LastWords last_words(run_dir);
  auto channel = protocol::ChildChannel::Listen(socket);
  if (!channel.ok()) Leave(channel.status(), last_words);
  Whereabouts whereabouts(Clock::Real());
  const StopWatcher watcher(
      [&] { return (*channel)->stop_requested() == protocol::StopMode::kNow; },
      [&] {
        // Told to stop because the ranks wait for each other for too long: one of them hangs.
        if (whereabouts.Look().overdue()) WriteThreadStacks(STDERR_FILENO);
        LeaveStopped(last_words);
      });
  WorkerHost host(**channel, whereabouts);
  const Watchdog watchdog(
      Clock::Real(), whereabouts,
      [&](const Whereabouts::Position& position) { host.Tell(position); },
      [&](const Whereabouts::Position& position) {
        LeaveHung(position, (*channel)->key().rank, last_words);
      });
  const absl::StatusOr<RunEnd> end = [&]() -> absl::StatusOr<RunEnd> {
    ANNEAL_ASSIGN_OR_RETURN(const protocol::Start start, (*channel)->WaitForStart(kStartTimeout));
    ANNEAL_ASSIGN_OR_RETURN(const protocol::TrainTask task,
                            ReadTask(start.task, start.storage_root));
    return RunTask(task, start.storage_root, host, whereabouts);
  }();
  Leave(end, last_words);
}

[[noreturn]] void RunAlone(const Options& options) {
  LastWords last_words(options.run_dir);
  const StopWatcher watcher([] { return false; }, [&] { LeaveStopped(last_words); });
  ConsoleHost host(options);
  std::atomic<int> rank = 0;  // once known
  Whereabouts whereabouts(Clock::Real(), [&](absl::string_view activity, int64_t step) {
    const std::string place = absl::StrCat(activity, ":", step);
    if (options.die_at == place) kill(getpid(), SIGKILL);
    if (options.hang_at == place) Clock::Real().Sleep(absl::InfiniteDuration());
  });
  const Watchdog watchdog(
      Clock::Real(), whereabouts, [](const Whereabouts::Position&) {},
      [&](const Whereabouts::Position& position) { LeaveHung(position, rank, last_words); });
  const absl::StatusOr<RunEnd> end = [&]() -> absl::StatusOr<RunEnd> {
    ANNEAL_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(options.task_file));
    ANNEAL_ASSIGN_OR_RETURN(protocol::TrainTask task, ReadTask(json, options.storage_root));
    if (options.rank.has_value()) task.rank = *options.rank;
    rank = task.rank;
    return RunTask(task, options.storage_root, host, whereabouts);
  }();
  Leave(end, last_words);
}

}  // namespace

int RunCommand(int argc, char** argv) {
  Options options;
  CLI::App app("Train one rank of a job.", "anneal-trainer run");
  CLI::Option* socket =
      app.add_option("--socket", options.socket, "listen here for a worker's orders");
  CLI::Option* task =
      app.add_option("--task", options.task_file, "without a worker: the task (JSON, TrainTask)");
  app.add_option("--storage-root", options.storage_root,
                 "what relative paths in the task start from")
      ->needs(task);
  app.add_option("--rank", options.rank, "instead of the task's")->needs(task);
  app.add_option("--pause-after", options.pause_after, "leave after this step, with a checkpoint")
      ->needs(task);
  app.add_option(
         "--die-at", options.die_at,
         "for tests of recovery: kill this process when it enters ACTIVITY:STEP, as in backward:3")
      ->needs(task);
  app.add_option("--hang-at", options.hang_at,
                 "the same, but its training thread stands still there")
      ->needs(task);
  app.add_option("--run-dir", options.run_dir, "gets exit.json")->needs(task);
  app.add_option("--rendezvous", options.rendezvous,
                 "address that rank 0 printed; for the other ranks")
      ->needs(task);
  app.add_option("--rendezvous-file", options.rendezvous_file,
                 "rank 0 writes its address here, the others wait for it")
      ->needs(task);
  socket->excludes(task);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitBadInput;
  }
  if (options.socket.empty() && options.task_file.empty()) {
    std::fprintf(stderr, "anneal-trainer run: --socket or --task is needed\n");
    return kExitBadInput;
  }
  StopWatcher::BlockSignals();
  if (options.task_file.empty()) RunForWorker(options.socket);
  RunAlone(options);
}

}  // namespace anneal::trainer
