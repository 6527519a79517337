// anneal-trainer bench-collective: how fast two workers reach each other with what jobs use, for
// anneal doctor.

#include <sys/prctl.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/protocol/bench_messages.h"
#include "worker/trainer/collective/bandwidth.h"
#include "worker/trainer/collective/tcp_store.h"
#include "worker/trainer/command_line.h"
#include "worker/trainer/commands.h"
#include "worker/trainer/engine/accelerator_loader.h"

namespace anneal::trainer {
namespace {

struct Options {
  std::string device = "cpu";
  int rank = 0;
  std::string data_address = "127.0.0.1";
  std::string rendezvous;
  int64_t bytes = int64_t{16} << 20;
  int timeout_seconds = 30;
};

absl::StatusOr<std::string> LibraryOf(const std::string& device) {
  if (device == "cpu") return "Gloo";
  ANNEAL_ASSIGN_OR_RETURN(const CudaLibrary library, LoadCudaLibrary());
  ANNEAL_ASSIGN_OR_RETURN(const std::string version, NcclVersion(library));
  return absl::StrCat("NCCL ", version);
}

absl::StatusOr<std::unique_ptr<TcpStore>> Meet(const Options& options, absl::Duration timeout) {
  if (options.rank == 1) return TcpStore::Connect(options.rendezvous, timeout);
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<TcpStore> store, TcpStore::Serve(options.data_address));
  std::printf("%s %s\n", protocol::kRendezvousWord, store->address().c_str());
  std::fflush(stdout);
  return store;
}

absl::Status Bench(const Options& options) {
  // First of all: see LoadAccelerator.
  ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<Accelerator> accelerator,
                          LoadAccelerator(options.device, {}));
  ANNEAL_ASSIGN_OR_RETURN(const std::string library, LibraryOf(options.device));
  const absl::Duration timeout = absl::Seconds(options.timeout_seconds);
  ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<TcpStore> store, Meet(options, timeout));
  ANNEAL_ASSIGN_OR_RETURN(
      const std::unique_ptr<Communicator> communicator,
      accelerator->Connect({options.rank, /*world_size=*/2, options.data_address, timeout},
                           *store));
  ANNEAL_ASSIGN_OR_RETURN(
      const Bandwidth measured,
      MeasureBandwidth(*communicator, accelerator->device(), options.bytes, Clock::Real()));
  const Json figures = protocol::ToJson(protocol::CollectiveFigures{
      library, measured.one_way_bytes_per_second, measured.all_to_all_bytes_per_second,
      measured.all_reduce_bytes_per_second, measured.latency_seconds});
  std::printf("%s\n", DumpJson(figures).c_str());
  return absl::OkStatus();
}

absl::Status CheckCuda(bool start) {
  protocol::CudaReport report;
  ANNEAL_ASSIGN_OR_RETURN(const CudaLibrary library, LoadCudaLibrary());
  report.library = library.path;
  ANNEAL_ASSIGN_OR_RETURN(report.nccl, NcclVersion(library));
  ANNEAL_ASSIGN_OR_RETURN(report.devices, CountCudaDevices(library));
  if (start) {
    ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<Accelerator> accelerator,
                            LoadAccelerator("cuda", {}));
    report.started = accelerator->NumericFingerprint();
  }
  std::printf("%s\n", DumpJson(protocol::ToJson(report)).c_str());
  return absl::OkStatus();
}

// What a worker starts for a moment must not outlive it.
void DieWithParent() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

}  // namespace

int BenchCollectiveCommand(int argc, char** argv) {
  CLI::App app("Measure collectives between two ranks; one line of JSON on standard output.",
               "anneal-trainer bench-collective");
  Options options;
  app.add_option("--device", options.device, "cpu (Gloo) or cuda (NCCL)")->capture_default_str();
  app.add_option("--rank", options.rank, "0, which serves the rendezvous and prints where, or 1")
      ->required()
      ->check(CLI::Range(0, 1));
  app.add_option("--data-address", options.data_address, "of this machine, for collectives")
      ->capture_default_str();
  app.add_option("--rendezvous", options.rendezvous, "what rank 0 has printed, for rank 1");
  app.add_option("--bytes", options.bytes, "sent each way at a time")
      ->check(CLI::Range(int64_t{4}, int64_t{1} << 32))
      ->capture_default_str();
  app.add_option("--timeout-seconds", options.timeout_seconds, "of joining, and of each transfer")
      ->check(CLI::Range(1, 600))
      ->capture_default_str();
  return ParseAndRun(app, argc, argv, [&options] {
    DieWithParent();
    return Bench(options);
  });
}

int CheckCudaCommand(int argc, char** argv) {
  CLI::App app("Load the CUDA library and say what it finds; one line of JSON on standard output.",
               "anneal-trainer check-cuda");
  bool start = false;
  app.add_flag("--start", start, "also start the first visible device, which takes its memory");
  return ParseAndRun(app, argc, argv, [&start] {
    DieWithParent();
    return CheckCuda(start);
  });
}

}  // namespace anneal::trainer
