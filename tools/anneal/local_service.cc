#include "tools/anneal/local_service.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "tools/anneal/client.h"
#include "tools/anneal/context.h"
#include "tools/anneal/programs.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kReadyPatience = absl::Minutes(1);
constexpr absl::Duration kStopPatience = absl::Seconds(20);
constexpr absl::Duration kPoll = absl::Milliseconds(20);
constexpr char kLoopback[] = "127.0.0.1:0";
constexpr size_t kLogTailBytes = 2000;
// A Unix socket's path has at most 107 bytes; a run folder adds about 50 to a worker's state
// folder, the API socket 9.
constexpr size_t kMaxStateFolderBytes = 55;
constexpr size_t kMaxSocketPathBytes = 100;

sigset_t HandledSignals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int signal : {SIGINT, SIGTERM, SIGCHLD}) ::sigaddset(&set, signal);
  return set;
}

absl::Status ErrnoStatus(const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", std::strerror(errno)));
}

// Replaces the file at once: a reader sees the old text or the new.
absl::Status WritePrivateFile(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus(temporary);
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (::close(fd) != 0 || !written) return ErrnoStatus(temporary);
  if (::rename(temporary.c_str(), path.c_str()) != 0) return ErrnoStatus(path);
  return absl::OkStatus();
}

std::string ReadTail(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const auto size = static_cast<size_t>(in.tellg());
  const size_t start = size > kLogTailBytes ? size - kLogTailBytes : 0;
  in.seekg(static_cast<std::streamoff>(start));
  std::string text(size - start, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  return Printable(text);
}

// Cores this process may use.
int AvailableCores() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

std::string ProgramOf(pid_t pid) {
  std::error_code error;
  return fs::read_symlink(absl::StrCat("/proc/", pid, "/exe"), error).filename().string();
}

// False if another process holds it; `fd` is then closed.
bool TryLock(int fd) {
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return true;
  ::close(fd);
  return false;
}

}  // namespace

LocalService::LocalService(const LocalServiceOptions& options, std::ostream& out, Clock& clock,
                           Random& random)
    : options_(options),
      folder_((fs::absolute(options.folder) / kLocalFolder).lexically_normal().string()),
      short_folder_(folder_),
      out_(out),
      clock_(clock),
      random_(random) {}

LocalService::~LocalService() {
  Stop();
  std::error_code ignored;
  if (lock_fd_ >= 0 && short_folder_ != folder_) fs::remove(short_folder_, ignored);
  // The lock stays until this process has ended, which is what `anneal down` waits for.
}

void LocalService::BlockSignals() {
  // Shells start background commands with SIGINT ignored; here it means stop all the same.
  for (int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
  const sigset_t set = HandledSignals();
  ANNEAL_CHECK(::pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
}

absl::Status LocalService::Start() {
  ANNEAL_RETURN_IF_ERROR(MakeFolders());
  ANNEAL_RETURN_IF_ERROR(TakeLock());
  ANNEAL_RETURN_IF_ERROR(MakeCredentials());
  ANNEAL_RETURN_IF_ERROR(MakeShortFolder());
  ANNEAL_RETURN_IF_ERROR(StartCoordinator());
  const Process& coordinator = processes_.front();
  ANNEAL_ASSIGN_OR_RETURN(fleet_address_, AwaitAddress(coordinator, "fleet"));
  ANNEAL_ASSIGN_OR_RETURN(const std::string api_address, AwaitAddress(coordinator, "api"));
  ANNEAL_ASSIGN_OR_RETURN(const std::string admin_address, AwaitAddress(coordinator, "admin"));
  for (int i = 0; i < options_.workers; ++i) ANNEAL_RETURN_IF_ERROR(StartWorker(i));
  ANNEAL_RETURN_IF_ERROR(AwaitWorkers(api_address));
  // Last of all: who finds the context may submit.
  ANNEAL_RETURN_IF_ERROR(WriteContext(api_address));
  out_ << "service   " << api_address << "\nmetrics   http://" << admin_address << "/metrics\n";
  return absl::OkStatus();
}

absl::Status LocalService::MakeFolders() {
  std::error_code error;
  for (const char* name : {"", "data", "storage", "logs"}) {
    fs::create_directories(PathOf(name), error);
    if (error)
      return absl::FailedPreconditionError(absl::StrCat(PathOf(name), ": ", error.message()));
  }
  fs::permissions(folder_, fs::perms::owner_all, error);
  if (error) return absl::FailedPreconditionError(absl::StrCat(folder_, ": ", error.message()));
  return absl::OkStatus();
}

absl::Status LocalService::TakeLock() {
  const int fd = ::open(PathOf("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus(PathOf("lock"));
  if (!TryLock(fd)) {
    return absl::FailedPreconditionError(
        absl::StrCat("a service already runs in ", folder_, "; stop it with `anneal down`"));
  }
  lock_fd_ = fd;
  std::error_code ignored;
  fs::remove(PathOf("context.yaml"), ignored);
  return WriteProcessList();
}

// The first line is this process, the others its children; read by `anneal down`.
absl::Status LocalService::WriteProcessList() const {
  std::string text = absl::StrCat(::getpid(), "\n");
  for (const Process& process : processes_) absl::StrAppend(&text, process.pid, "\n");
  return WritePrivateFile(PathOf("processes"), text);
}

absl::Status LocalService::MakeCredentials() {
  if (fs::exists(PathOf("credentials"))) return absl::OkStatus();
  return WritePrivateFile(PathOf("credentials"),
                          absl::StrCat("# key project creator role\n", RandomHex(32, random_),
                                       " default local admin\n"));
}

absl::Status LocalService::MakeShortFolder() {
  if (folder_.size() + absl::StrCat("/w", options_.workers).size() <= kMaxStateFolderBytes)
    return absl::OkStatus();
  // The same name each time: what a killed service left behind is found again. Others may write in
  // /tmp, hence the look at it.
  const std::string link = absl::StrCat("/tmp/anneal-", Sha256Hex(folder_).substr(0, 16));
  struct stat info;
  std::error_code error;
  if (::symlink(folder_.c_str(), link.c_str()) != 0 &&
      (::lstat(link.c_str(), &info) != 0 || info.st_uid != ::getuid() ||
       fs::read_symlink(link, error) != folder_)) {
    return absl::FailedPreconditionError(
        absl::StrCat(link, " is needed as a short name for ", folder_, " but is something else"));
  }
  short_folder_ = link;
  return absl::OkStatus();
}

absl::Status LocalService::StartProcess(const std::string& name,
                                        std::vector<std::string> arguments) {
  Process process{.name = name,
                  .log_file = PathOf(absl::StrCat("logs/", name, ".log")),
                  .address_file = PathOf(absl::StrCat(name, ".addresses.json"))};
  std::error_code ignored;
  fs::remove(process.address_file, ignored);
  arguments.insert(arguments.end(), {"--address-file", process.address_file});
  ANNEAL_ASSIGN_OR_RETURN(process.pid, StartProgram(arguments, process.log_file, lock_fd_));
  process.running = true;
  processes_.push_back(process);
  return WriteProcessList();
}

absl::Status LocalService::StartCoordinator() {
  ANNEAL_ASSIGN_OR_RETURN(const std::string program, FindProgram("anneal-coordinator"));
  const std::string socket = PathOf("api.sock");
  std::vector<std::string> arguments = {
      program,
      "--listen",
      socket.size() <= kMaxSocketPathBytes ? "unix:" + socket : kLoopback,
      "--fleet-listen",
      kLoopback,
      "--admin-listen",
      kLoopback,
      "--data-dir",
      PathOf("data"),
      "--storage-root",
      PathOf("storage"),
      "--credentials-file",
      PathOf("credentials")};
  for (const std::string& root : options_.allowed_roots)
    arguments.insert(arguments.end(), {"--allowed-root", root});
  return StartProcess("coordinator", std::move(arguments));
}

absl::Status LocalService::StartWorker(int index) {
  ANNEAL_ASSIGN_OR_RETURN(const std::string program, FindProgram("anneal-worker"));
  const std::string name = absl::StrCat("w", index);
  const int slots = options_.cpu_slots_per_worker;
  const int threads = std::max(1, AvailableCores() / (options_.workers * slots));
  return StartProcess(name, {program,
                             "--coordinator",
                             fleet_address_,
                             "--name",
                             name,
                             "--state-dir",
                             absl::StrCat(short_folder_, "/", name),
                             "--storage-root",
                             PathOf("storage"),
                             "--cpu-slots",
                             absl::StrCat(slots),
                             "--threads-per-slot",
                             absl::StrCat(threads),
                             "--prepare-slots",
                             "1",
                             "--data-address",
                             "127.0.0.1",
                             "--admin-listen",
                             kLoopback,
                             "--credentials-file",
                             PathOf("credentials")});
}

absl::StatusOr<std::string> LocalService::AwaitAddress(const Process& process,
                                                       const std::string& which) {
  const absl::Duration deadline = clock_.MonotonicNow() + kReadyPatience;
  while (!fs::exists(process.address_file)) {
    ANNEAL_RETURN_IF_ERROR(WaitForTrouble(kPoll));
    if (clock_.MonotonicNow() > deadline) {
      return absl::InternalError(
          absl::StrCat(process.name, " does not answer; its log: ", process.log_file));
    }
  }
  ANNEAL_ASSIGN_OR_RETURN(const Json addresses, ReadJsonFile(process.address_file));
  if (!addresses.is_object() || !addresses.contains(which) || !addresses[which].is_string()) {
    return absl::InternalError(
        absl::StrCat(process.address_file, " names no address '", which, "'"));
  }
  return addresses[which].get<std::string>();
}

absl::Status LocalService::WriteContext(const std::string& api_address) {
  return WritePrivateFile(
      PathOf("context.yaml"),
      absl::StrCat(
          "# Written by `anneal up`; found by every `anneal` command run below this folder.\n",
          "server: ", DumpJson(Json(api_address)), "\napi_key_file: credentials\n",
          "shares_disk: true\n"));
}

absl::Status LocalService::AwaitWorkers(const std::string& api_address) {
  ANNEAL_ASSIGN_OR_RETURN(
      const Context context,
      FindContext({.server = api_address, .api_key_file = PathOf("credentials")}, folder_, ""));
  ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<Client> client, Client::Connect(context));
  const absl::Duration deadline = clock_.MonotonicNow() + kReadyPatience;
  for (;;) {
    const absl::StatusOr<v1::ListWorkersResponse> response =
        client->Call(&v1::ClusterService::StubInterface::ListWorkers, v1::ListWorkersRequest());
    int ready = 0;
    if (response.ok()) {
      // Workers of an earlier run are listed, too, but have not synced.
      for (const v1::Worker& worker : response->workers()) {
        ready += worker.state() == v1::Worker::STATE_READY && !worker.slots().empty() ? 1 : 0;
      }
      if (ready >= options_.workers) return absl::OkStatus();
    } else if (!IsRetryable(response.status())) {
      return response.status();
    }
    ANNEAL_RETURN_IF_ERROR(WaitForTrouble(kPoll));
    if (clock_.MonotonicNow() > deadline) {
      return absl::InternalError(
          absl::StrCat("only ", ready, " of ", options_.workers,
                       " workers became ready; their logs: ", PathOf("logs")));
    }
  }
}

absl::Status LocalService::Supervise() {
  absl::Status status;
  do {
    status = WaitForTrouble(absl::InfiniteDuration());
  } while (status.ok());
  Stop();
  return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

absl::Status LocalService::WaitForTrouble(absl::Duration duration) {
  const sigset_t set = HandledSignals();
  const timespec timeout = absl::ToTimespec(duration);
  const int signal = duration == absl::InfiniteDuration() ? ::sigwaitinfo(&set, nullptr)
                                                          : ::sigtimedwait(&set, nullptr, &timeout);
  if (signal == SIGINT || signal == SIGTERM) return absl::CancelledError("told to stop");
  return CheckProcesses();
}

absl::Status LocalService::CheckProcesses() {
  for (Process& process : processes_) {
    int wait_status = 0;
    if (!process.running || ::waitpid(process.pid, &wait_status, WNOHANG) != process.pid) continue;
    process.running = false;
    return absl::InternalError(absl::StrCat(process.name, " ended (", DescribeEnd(wait_status),
                                            "); its log ", process.log_file, " ends:\n",
                                            ReadTail(process.log_file)));
  }
  return absl::OkStatus();
}

void LocalService::Stop() {
  std::vector<Process*> workers, coordinator;
  for (Process& process : processes_)
    (process.name == "coordinator" ? coordinator : workers).push_back(&process);
  // Workers first: they stop their trainers, and say so while somebody listens.
  SignalAndWait(workers, SIGINT);
  SignalAndWait(coordinator, SIGINT);
  std::error_code ignored;
  if (lock_fd_ >= 0) fs::remove(PathOf("context.yaml"), ignored);
}

void LocalService::SignalAndWait(const std::vector<Process*>& processes, int signal) {
  for (Process* process : processes) {
    if (process->running) ::kill(process->pid, signal);
  }
  const sigset_t set = HandledSignals();
  const timespec poll = absl::ToTimespec(kPoll);
  absl::Duration deadline = clock_.MonotonicNow() + kStopPatience;
  for (Process* process : processes) {
    while (process->running) {
      if (::waitpid(process->pid, nullptr, WNOHANG) != 0) {
        process->running = false;
        break;
      }
      // A second Ctrl-C is meant.
      const int received = ::sigtimedwait(&set, nullptr, &poll);
      if (received == SIGINT || received == SIGTERM || clock_.MonotonicNow() > deadline) {
        deadline = clock_.MonotonicNow();
        ::kill(process->pid, SIGKILL);
      }
    }
  }
}

absl::Status StopLocalService(const std::string& folder, Clock& clock) {
  const std::string local = (fs::absolute(folder) / kLocalFolder).lexically_normal().string();
  const std::string lock_file = local + "/lock";
  const auto is_free = [&] {
    const int fd = ::open(lock_file.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) return true;
    if (!TryLock(fd)) return false;
    ::close(fd);
    return true;
  };
  if (is_free()) return absl::NotFoundError(absl::StrCat("no service runs in ", local));
  std::ifstream in(local + "/processes");
  pid_t pid = 0;
  bool first = true;
  while (in >> pid) {
    const std::string program = ProgramOf(pid);
    if (first && program == "anneal") {
      ::kill(pid, SIGTERM);  // it stops its children
      break;
    }
    // Whoever started them was killed: their numbers are checked, for they may be others' by now.
    if (program == "anneal-coordinator" || program == "anneal-worker") ::kill(pid, SIGINT);
    first = false;
  }
  const absl::Duration deadline = clock.MonotonicNow() + 3 * kStopPatience;
  while (!is_free()) {
    if (clock.MonotonicNow() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("the service in ", local, " does not stop; its logs: ", local, "/logs"));
    }
    clock.Sleep(kPoll);
  }
  return absl::OkStatus();
}

}  // namespace anneal::cli
