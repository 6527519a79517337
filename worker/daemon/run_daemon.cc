#include "worker/daemon/run_daemon.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/base/version.h"
#include "common/format/json.h"
#include "common/host/machine_checks.h"
#include "common/metrics/admin_server.h"
#include "common/metrics/host_metrics.h"
#include "common/metrics/metrics.h"
#include "common/metrics/sampler.h"
#include "common/rpc/certificate_metrics.h"
#include "common/rpc/channel.h"
#include "common/storage/file_system.h"
#include "worker/daemon/await_slots.h"
#include "worker/daemon/coordinator_link.h"
#include "worker/daemon/gpu_metrics.h"
#include "worker/daemon/launch.h"
#include "worker/daemon/worker_daemon.h"
#include "worker/daemon/worker_metrics.h"
#include "worker/examiner/examiner.h"
#include "worker/supervisor/spawn.h"

namespace anneal {
namespace {

// How often free space, certificates and GPUs are looked at.
constexpr absl::Duration kSampleEvery = absl::Seconds(15);

// The first word of the first line that is no comment. Empty without a file.
absl::StatusOr<std::string> ReadApiKey(const std::string& path) {
  if (path.empty()) return std::string();
  ANNEAL_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    return std::string(line.substr(0, line.find(' ')));
  }
  return absl::InvalidArgumentError(absl::StrCat(path, " holds no API key"));
}

ChannelOptions ChannelOptionsOf(const WorkerOptions& options) {
  return {.target = options.coordinator,
          .tls = options.tls,
          .tls_ca_file = options.tls_ca_file,
          .tls_certificate_file = options.tls_certificate_file,
          .tls_key_file = options.tls_key_file,
          .sends_key = !options.credentials_file.empty(),
          .insecure_allow_remote = options.insecure_allow_remote};
}

}  // namespace

absl::Status RunDaemon(const WorkerOptions& options, UniqueFd keeper_fd) {
  SetLogContext("daemon", {Field("worker", options.name)});
  // A daemon without a keeper can do nothing, and the next keeper starts its own.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::signal(SIGPIPE, SIG_IGN);
  const std::map<std::string, std::string> environment = ReadEnvironment();
  KeeperClient keeper(std::move(keeper_fd));
  Clock& clock = Clock::Real();
  MetricRegistry registry;
  WorkerMetrics metrics(registry, clock);
  ANNEAL_ASSIGN_OR_RETURN(std::optional<std::vector<v1::Slot>> found,
                          AwaitSlots(options, keeper, metrics, registry, clock));
  if (!found.has_value()) return absl::OkStatus();
  std::vector<v1::Slot>& slots = *found;
  const int gpus = std::count_if(slots.begin(), slots.end(),
                                 [](const v1::Slot& slot) { return !slot.device_uuid().empty(); });
  if (const v1::Check check = CheckSharedMemory(gpus); check.verdict() != v1::Check::VERDICT_OK) {
    ANNEAL_LOG(WARNING) << "shared memory" << Field("found", check.measured())
                        << Field("advice", check.advice());
  }
  ANNEAL_ASSIGN_OR_RETURN(std::string api_key, ReadApiKey(options.credentials_file));
  ANNEAL_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                          MakeChannel(ChannelOptionsOf(options)));
  ANNEAL_ASSIGN_OR_RETURN(const UniqueFd wake, WorkerDaemon::MakeWakeFd());

  HostMetrics host_metrics(registry);
  CertificateMetrics certificate_metrics(registry);
  GpuMetrics gpu_metrics(registry);
  SamplerMetrics sampler_metrics(registry);
  host_metrics.build_info.Set(1, {"anneal-worker", Version()});
  CoordinatorLink link(
      std::move(channel), std::move(api_key), [fd = wake.get()] { WorkerDaemon::WakeUp(fd); },
      clock, Random::Real());
  Examiner examiner(
      {.data_address = options.data_address,
       .storage_root = options.storage_root,
       .worker = options.name,
       .nvml_library = options.inventory.use_gpus ? options.inventory.nvml_library : "",
       .slots = MakeTrainerSlots(slots, options, environment)},
      FileSystem::Posix(), [fd = wake.get()] { WorkerDaemon::WakeUp(fd); }, clock);
  WorkerDaemon daemon(options, std::move(slots), keeper, link, examiner, wake.get(), metrics,
                      clock);
  ANNEAL_RETURN_IF_ERROR(daemon.SetUp());
  const Sampler sampler(
      {{"certificates",
        [&] {
          absl::Status measured =
              certificate_metrics.Measure("client", options.tls_certificate_file);
          measured.Update(certificate_metrics.MeasureAuthorities("ca", options.tls_ca_file));
          return measured;
        }},
       {"gpus", [&] { return gpu_metrics.Measure(options.inventory); }},
       {"state", [&] { return host_metrics.MeasureFileSystem("state", options.state_dir); }},
       {"storage",
        [&] { return host_metrics.MeasureFileSystem("storage", options.storage_root); }}},
      kSampleEvery, sampler_metrics, clock);
  auto ready = [&daemon] {
    return daemon.ready() ? absl::OkStatus()
                          : absl::UnavailableError("draining, or the coordinator is not heard");
  };
  ANNEAL_ASSIGN_OR_RETURN(
      std::unique_ptr<AdminServer> admin,
      AdminServer::Start({.address = options.admin_listen, .ready = ready}, registry));
  if (!options.address_file.empty()) {
    ANNEAL_RETURN_IF_ERROR(
        WriteFileAtomically(options.address_file, DumpJson({{"admin", admin->address()}}) + "\n"));
  }
  return daemon.Run();
}

}  // namespace anneal
