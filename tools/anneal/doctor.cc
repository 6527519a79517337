// anneal doctor: whether a machine, or the whole fleet, is fit to train on.

#include "tools/anneal/doctor.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/base/version.h"
#include "common/host/check.h"
#include "common/host/clock_check.h"
#include "common/host/machine_checks.h"
#include "common/host/nvml.h"
#include "common/host/storage_checks.h"
#include "common/storage/file_system.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/history.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

using Cluster = v1::ClusterService::StubInterface;

// All rounds of links, each of which takes some seconds, and up to minutes where something hangs.
constexpr absl::Duration kFleetTimeout = absl::Hours(2);

struct DoctorOptions {
  bool all_workers = false;
  bool all_pairs = false;
  std::string storage_root;
  std::string data_address = "0.0.0.0";
  std::string nvml_library = "libnvidia-ml.so.1";
};

v1::Check CheckStorageHere(const std::string& root) {
  FileSystem& files = FileSystem::Posix();
  const absl::StatusOr<FileInfo> info = files.Stat(root);
  if (!info.ok() || info->kind != FileInfo::Kind::kFolder)
    return FailedCheck("storage", absl::StrCat(root, " is no folder"), "mount it, or make it");
  // Beside what is there, never in it: the root may not be in use yet.
  return CheckStorage(files, absl::StrCat(root, "/doctor-", RandomHex(8, Random::Real())),
                      Clock::Real());
}

std::vector<v1::Check> LookAtThisMachine(const DoctorOptions& options) {
  const absl::StatusOr<std::vector<GpuDevice>> gpus = ListGpus(options.nvml_library);
  std::vector<v1::Check> checks = {
      CheckGpuDriver(options.nvml_library), CheckRdma(LockableBytes()),
      CheckSharedMemory(gpus.ok() ? static_cast<int>(gpus->size()) : 0),
      CheckPorts(options.data_address)};
  if (!options.storage_root.empty()) checks.push_back(CheckStorageHere(options.storage_root));
  for (v1::Check& check : checks) check.set_machine("here");
  return checks;
}

v1::Check CheckWorkers(Client& client) {
  constexpr char kName[] = "workers";
  const absl::StatusOr<v1::ListWorkersResponse> listed = ReadWorkers(client);
  if (!listed.ok())
    return FailedCheck(kName, listed.status().message(), "look at the coordinator's log");
  std::vector<std::string> away;
  for (const v1::Worker& worker : listed->workers()) {
    if (worker.state() != v1::Worker::STATE_READY) away.emplace_back(IdOf(worker.name()));
  }
  const std::string ready = absl::StrCat(listed->workers_size() - static_cast<int>(away.size()),
                                         " of ", listed->workers_size(), " ready");
  if (listed->workers().empty())
    return WarningCheck(kName, ready, "start anneal-worker somewhere: jobs would wait for ever");
  if (!away.empty()) {
    return WarningCheck(kName, absl::StrCat(ready, ", not ", absl::StrJoin(away, ", ")),
                        "anneal doctor --all-workers tells more");
  }
  return OkCheck(kName, ready);
}

std::vector<v1::Check> LookAtCoordinator(CommandLine& line) {
  constexpr char kAnswer[] = "answer";
  const absl::StatusOr<Client*> client = line.client();
  if (!client.ok()) {
    return {FailedCheck(kAnswer, client.status().message(),
                        "say which service with --server or --context")};
  }
  Clock& clock = Clock::Real();
  const absl::Time before = clock.TimeNow();
  const absl::StatusOr<v1::Coordinator> coordinator =
      (*client)->Call(&Cluster::GetCoordinator, v1::GetCoordinatorRequest());
  const absl::Time after = clock.TimeNow();
  if (!coordinator.ok()) {
    return {FailedCheck(kAnswer, coordinator.status().message(),
                        "see whether it runs, whether its port is open from here, and which key "
                        "is sent")};
  }
  ClockBounds bounds;
  bounds.SentAt(before, ToTime(coordinator->time()));
  bounds.ReceivedAt(after, ToTime(coordinator->time()));
  return {OkCheck(kAnswer, absl::StrCat("after ", absl::FormatDuration(absl::Trunc(
                                                      after - before, absl::Microseconds(100))))),
          coordinator->version() == Version()
              ? OkCheck("version", coordinator->version())
              : WarningCheck("version", absl::StrCat(coordinator->version(), ", here ", Version()),
                             "use the command line of the coordinator's version"),
          bounds.ToCheck("this machine"), CheckWorkers(**client)};
}

absl::StatusOr<ExitCode> Doctor(CommandLine& line, const DoctorOptions& options) {
  v1::CheckFleetResponse found;
  const auto add = [&found](std::vector<v1::Check> checks) {
    for (v1::Check& check : checks) *found.add_checks() = std::move(check);
  };
  if (!options.all_workers) add(LookAtThisMachine(options));
  std::vector<v1::Check> of_coordinator = LookAtCoordinator(line);
  for (v1::Check& check : of_coordinator) check.set_machine("coordinator");
  add(std::move(of_coordinator));
  if (options.all_workers) {
    ANNEAL_ASSIGN_OR_RETURN(Client * client, line.client());
    v1::CheckFleetRequest request;
    request.set_all_pairs(options.all_pairs);
    ANNEAL_ASSIGN_OR_RETURN(const v1::CheckFleetResponse fleet,
                            client->Call(&Cluster::CheckFleet, request, kFleetTimeout));
    found.MergeFrom(fleet);
  }
  if (line.json()) {
    line.PrintJson(found);
  } else {
    std::cout << Printable(FormatChecks(found));
  }
  const bool unfit = std::any_of(
      found.checks().begin(), found.checks().end(),
      [](const v1::Check& check) { return check.verdict() == v1::Check::VERDICT_FAILED; });
  return unfit ? kUnfit : kOk;
}

std::string VerdictText(v1::Check::Verdict verdict) {
  switch (verdict) {
    case v1::Check::VERDICT_OK:
      return "ok";
    case v1::Check::VERDICT_WARNING:
      return "warning";
    case v1::Check::VERDICT_FAILED:
      return "FAILED";
    default:
      return v1::Check::Verdict_Name(verdict);
  }
}

std::string MachineText(const v1::Check& check) {
  return std::string(absl::StripPrefix(check.machine(), "workers/"));
}

}  // namespace

std::string FormatChecks(const v1::CheckFleetResponse& found) {
  Table table({"MACHINE", "CHECK", "VERDICT", "FOUND"});
  std::string advice;
  for (const v1::Check& check : found.checks()) {
    table.AddRow(
        {MachineText(check), check.name(), VerdictText(check.verdict()), check.measured()});
    if (check.verdict() != v1::Check::VERDICT_OK && !check.advice().empty())
      absl::StrAppend(&advice, MachineText(check), ", ", check.name(), ": ", check.advice(), "\n");
  }
  return absl::StrCat(table.Format(), advice.empty() ? "" : "what to do:\n", advice);
}

void AddDoctorCommand(CommandLine& line) {
  auto options = std::make_shared<DoctorOptions>();
  CLI::App* doctor = line.AddCommand(nullptr, "doctor",
                                     "Check this machine and the coordinator, or the whole fleet",
                                     [&line, options] { return Doctor(line, *options); });
  CLI::Option* all = doctor->add_flag(
      "--all-workers", options->all_workers,
      "Check every worker, the ways between them and their storage instead of this machine");
  doctor
      ->add_flag("--all-pairs", options->all_pairs,
                 "Measure the links between all workers also where there are more than 32; takes "
                 "some seconds for each worker")
      ->needs(all);
  doctor
      ->add_option("--storage-root", options->storage_root,
                   "Folder that is, or shall be, the storage root of a worker here")
      ->excludes(all);
  doctor
      ->add_option("--data-address", options->data_address,
                   "Address that a worker here has, or shall have, for collectives")
      ->excludes(all)
      ->capture_default_str();
  doctor->add_option("--nvml-library", options->nvml_library, "NVIDIA's management library")
      ->excludes(all)
      ->capture_default_str();
}

}  // namespace anneal::cli
