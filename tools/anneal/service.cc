// anneal up, down: a whole service on this machine.

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "tools/anneal/command_line.h"
#include "tools/anneal/local_service.h"
#include "tools/anneal/programs.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;

struct UpOptions {
  LocalServiceOptions service{.folder = ".", .allowed_roots = {"/"}};
  bool detach = false;
};

void PrintHowToGoOn(const LocalServiceOptions& service) {
  std::cout << "ready: " << service.workers << (service.workers == 1 ? " worker" : " workers")
            << ", " << service.workers * service.cpu_slots_per_worker
            << " CPU slots; everything is under "
            << (fs::path(service.folder) / kLocalFolder).lexically_normal().string() << "\n"
            << "submit a job from this folder, in another terminal:\n"
            << "  anneal init\n  anneal submit job.yaml --follow\n"
            << std::flush;
}

// Starts this program again, without --detach, and waits until that is ready.
absl::StatusOr<ExitCode> Detach(const LocalServiceOptions& service) {
  ANNEAL_ASSIGN_OR_RETURN(const std::string self, FindProgram("anneal"));
  const fs::path local = fs::absolute(service.folder) / kLocalFolder;
  std::error_code error;
  fs::create_directories(local / "logs", error);
  const std::string log_file = (local / "logs/up.log").string();
  fs::resize_file(log_file, 0, error);
  std::vector<std::string> arguments = {self,
                                        "up",
                                        "--dir",
                                        service.folder,
                                        "--workers",
                                        absl::StrCat(service.workers),
                                        "--cpu-slots-per-worker",
                                        absl::StrCat(service.cpu_slots_per_worker)};
  for (const std::string& root : service.allowed_roots)
    arguments.insert(arguments.end(), {"--allowed-root", root});
  ANNEAL_ASSIGN_OR_RETURN(const pid_t pid, StartProgram(arguments, log_file, -1));
  for (;;) {
    int wait_status = 0;
    if (::waitpid(pid, &wait_status, WNOHANG) == pid) {
      std::stringstream log;
      log << std::ifstream(log_file).rdbuf();
      return absl::InternalError(absl::StrCat("the service did not start:\n", log.str()));
    }
    std::ifstream processes(local / "processes");
    pid_t owner = 0;
    if (processes >> owner && owner == pid && fs::exists(local / "context.yaml")) break;
    Clock::Real().Sleep(absl::Milliseconds(20));
  }
  PrintHowToGoOn(service);
  std::cout << "stop it with: anneal down\n";
  return kOk;
}

absl::StatusOr<ExitCode> Up(const UpOptions& options) {
  if (options.detach) return Detach(options.service);
  LocalService::BlockSignals();
  LocalService service(options.service, std::cout, Clock::Real(), Random::Real());
  if (const absl::Status status = service.Start(); !status.ok()) {
    if (absl::IsCancelled(status)) return kOk;
    return status;
  }
  PrintHowToGoOn(options.service);
  std::cout << "Ctrl-C stops the service\n" << std::flush;
  ANNEAL_RETURN_IF_ERROR(service.Supervise());
  std::cout << "stopped\n";
  return kOk;
}

absl::StatusOr<ExitCode> Down(const std::string& folder) {
  ANNEAL_RETURN_IF_ERROR(StopLocalService(folder, Clock::Real()));
  std::cout << "stopped\n";
  return kOk;
}

}  // namespace

void AddServiceCommands(CommandLine& line) {
  auto options = std::make_shared<UpOptions>();
  LocalServiceOptions& service = options->service;
  CLI::App* up =
      line.AddCommand(nullptr, "up", "Run a whole service on this machine, under ./.anneal",
                      [options] { return Up(*options); });
  up->add_option("--workers", service.workers, "Workers")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  up->add_option("--cpu-slots-per-worker", service.cpu_slots_per_worker,
                 "Slots a worker offers; cores are shared out evenly")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  up->add_option("--dir", service.folder, "Where .anneal is made")->capture_default_str();
  up->add_option("--allowed-root", service.allowed_roots,
                 "Folder whose models and data jobs may name (repeatable)")
      ->allow_extra_args(false)
      ->capture_default_str();
  up->add_flag("--detach", options->detach,
               "Return when the service is ready; `anneal down` stops it");

  auto folder = std::make_shared<std::string>(".");
  line.AddCommand(nullptr, "down", "Stop the service that runs under ./.anneal",
                  [folder] { return Down(*folder); })
      ->add_option("--dir", *folder, "Where .anneal is")
      ->capture_default_str();
}

}  // namespace anneal::cli
