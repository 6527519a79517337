#include "common/host/machine_checks.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <system_error>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/host/check.h"
#include "common/host/nvml.h"
#include "common/host/socket_address.h"

namespace anneal {
namespace {

constexpr char kGpuDriver[] = "gpu driver";
constexpr char kSharedMemory[] = "shared memory";
constexpr char kPorts[] = "ports";
constexpr char kRdma[] = "rdma";

// Of the CUDA that anneal-trainer is built with; newer minor versions run on the same drivers.
constexpr int kCudaMajorVersion = 13;
// The first driver that runs it without NVIDIA's compatibility libraries.
constexpr int kDriverMajorVersion = 580;
constexpr char kNvidia[] = "0x10de";  // PCI vendor
// PCI classes: VGA and 3D controllers.
constexpr absl::string_view kDisplayClass = "0x03";
// As NCCL takes with eight GPUs, with room to spare.
constexpr int64_t kSharedMemoryForGpus = int64_t{1} << 30;
constexpr size_t kBytesWritten = 1 << 20;
// At a time: more than the trainers of one machine open between them.
constexpr int kPortsWanted = 64;

std::string CudaVersionText(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

// Entries of a folder; none if there is no folder.
std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

// NVIDIA's, whether or not there is a driver for them.
int CountGpusOnBus(const std::string& bus) {
  int count = 0;
  for (const std::string& device : NamesIn(bus)) {
    const auto word = [&](const char* file) {
      return ReadSmallFile(absl::StrCat(bus, "/", device, "/", file)).value_or("");
    };
    if (absl::StripAsciiWhitespace(word("vendor")) == kNvidia &&
        absl::StartsWith(word("class"), kDisplayClass))
      ++count;
  }
  return count;
}

v1::Check WithoutDriver(const std::string& library, int gpus) {
  if (gpus == 0) return OkCheck(kGpuDriver, "none: this machine has CPU slots only");
  return FailedCheck(
      kGpuDriver,
      absl::StrCat(gpus, " NVIDIA GPUs are on the bus, and ", library, " is not installed"),
      absl::StrCat("install NVIDIA's driver, ", kDriverMajorVersion,
                   " or newer, or give the container the GPUs (--gpus all, the runtime class "
                   "nvidia); a worker that shall not lend them starts with --gpus=false"));
}

absl::Status WriteThere(const std::string& folder) {
  // Without a name: gone with the descriptor, whatever happens.
  const UniqueFd file(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write in ", folder));
  const std::string bytes(kBytesWritten, 'a');
  const ssize_t written = ::write(file.get(), bytes.data(), bytes.size());
  if (written == static_cast<ssize_t>(bytes.size())) return absl::OkStatus();
  return absl::ErrnoToStatus(written < 0 ? errno : ENOSPC,
                             absl::StrCat("cannot write in ", folder));
}

absl::StatusOr<UniqueFd> BindAnyPort(const SocketAddress& address) {
  UniqueFd fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "cannot make a socket");
  if (::bind(fd.get(), address.get(), address.length()) != 0 || ::listen(fd.get(), 1) != 0)
    return absl::ErrnoToStatus(errno, "cannot bind a port");
  return fd;
}

}  // namespace

v1::Check CheckGpuDriver(const std::string& library, const std::string& bus) {
  const absl::StatusOr<std::optional<GpuDriver>> driver = ReadGpuDriver(library);
  const absl::StatusOr<std::vector<GpuDevice>> gpus = ListGpus(library);
  const absl::Status status = driver.ok() ? gpus.status() : driver.status();
  if (!status.ok()) {
    return FailedCheck(kGpuDriver, status.message(),
                       "make nvidia-smi work here first; a driver that was upgraded needs its "
                       "kernel module loaded again, or a restart of the machine");
  }
  if (!driver->has_value()) return WithoutDriver(library, CountGpusOnBus(bus));
  const std::string& version = (*driver)->version;
  const std::string measured =
      absl::StrCat(version, " with ", gpus->size(), " GPUs, runs CUDA up to ",
                   CudaVersionText((*driver)->cuda_version));
  if ((*driver)->cuda_version / 1000 < kCudaMajorVersion) {
    return FailedCheck(
        kGpuDriver, measured,
        absl::StrCat("install a driver that runs CUDA ", kCudaMajorVersion,
                     ".0, with which the trainer is built: ", kDriverMajorVersion, " or newer"));
  }
  int major = 0;
  if (!absl::SimpleAtoi(version.substr(0, version.find('.')), &major) ||
      major < kDriverMajorVersion) {
    return WarningCheck(
        kGpuDriver, absl::StrCat(measured, " by compatibility libraries"),
        absl::StrCat("install driver ", kDriverMajorVersion, " or newer: with an older one CUDA ",
                     kCudaMajorVersion, " runs on some GPUs only"));
  }
  if (gpus->empty())
    return WarningCheck(kGpuDriver, measured, "the driver shows no GPU: look at nvidia-smi");
  return OkCheck(kGpuDriver, measured);
}

v1::Check CheckRdma(uint64_t lockable_bytes, const std::string& devices,
                    const std::string& adapters) {
  const std::vector<std::string> names = NamesIn(adapters);
  std::vector<std::string> verbs;
  for (const std::string& name : NamesIn(devices)) {
    if (absl::StartsWith(name, "uverbs")) verbs.push_back(absl::StrCat(devices, "/", name));
  }
  if (names.empty() && verbs.empty()) return OkCheck(kRdma, "no adapters: NCCL takes TCP");
  const std::string measured = absl::StrCat("adapters ", absl::StrJoin(names, ", "));
  if (verbs.empty()) {
    return WarningCheck(kRdma, absl::StrCat(measured, ", and no devices in ", devices),
                        "NCCL takes TCP: give the container the devices (--device=/dev/infiniband, "
                        "a device plugin), or load ib_uverbs");
  }
  for (const std::string& path : verbs) {
    if (::access(path.c_str(), R_OK | W_OK) == 0) continue;
    return WarningCheck(kRdma,
                        absl::StrCat(measured, ", ", absl::ErrnoToStatus(errno, path).message()),
                        "NCCL takes TCP: let the worker's account open the devices");
  }
  if (lockable_bytes != UINT64_MAX) {
    return WarningCheck(
        kRdma, absl::StrCat(measured, ", ", lockable_bytes >> 10, " KiB may be locked"),
        "RDMA locks memory without bound, and NCCL fails with less: LimitMEMLOCK=infinity for "
        "anneal-worker, or for the container's runtime");
  }
  return OkCheck(kRdma, absl::StrCat(measured, ", memory may be locked without bound"));
}

uint64_t LockableBytes() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return UINT64_MAX;
  return limit.rlim_cur;
}

v1::Check CheckSharedMemory(int gpus, const std::string& path) {
  struct statvfs info = {};
  if (::statvfs(path.c_str(), &info) != 0) {
    return FailedCheck(kSharedMemory, absl::ErrnoToStatus(errno, path).message(),
                       absl::StrCat("mount a tmpfs at ", path));
  }
  const int64_t bytes = static_cast<int64_t>(info.f_blocks) * static_cast<int64_t>(info.f_frsize);
  const std::string measured = absl::StrCat(path, " has ", bytes >> 20, " MiB");
  if (gpus > 1 && bytes < kSharedMemoryForGpus) {
    return FailedCheck(kSharedMemory, measured,
                       "NCCL needs 1024 MiB for several GPUs: give the container more "
                       "(--shm-size, an emptyDir of medium Memory)");
  }
  if (const absl::Status written = WriteThere(path); !written.ok()) {
    return FailedCheck(kSharedMemory, absl::StrCat(measured, ": ", written.message()),
                       absl::StrCat("let the worker's account write in ", path));
  }
  return OkCheck(kSharedMemory, measured);
}

v1::Check CheckPorts(const std::string& address, const std::string& range_file) {
  const absl::StatusOr<std::string> range_text = ReadSmallFile(range_file);
  const std::string range =
      range_text.ok() ? absl::StrReplaceAll(absl::StripAsciiWhitespace(*range_text), {{"\t", "-"}})
                      : "of the kernel's choice";
  const absl::StatusOr<SocketAddress> any_port = SocketAddress::Make(address, 0);
  if (!any_port.ok()) {
    return FailedCheck(kPorts, any_port.status().message(), "give --data-address an IP address");
  }
  std::vector<UniqueFd> bound;
  for (int i = 0; i < kPortsWanted; ++i) {
    absl::StatusOr<UniqueFd> fd = BindAnyPort(*any_port);
    if (!fd.ok()) {
      return FailedCheck(kPorts,
                         absl::StrCat(address, ", ports ", range, ": ", fd.status().message()),
                         bound.empty() ? "--data-address must be an address of this machine"
                                       : "few ports are free: widen net.ipv4.ip_local_port_range");
    }
    bound.push_back(*std::move(fd));
  }
  return OkCheck(kPorts, absl::StrCat(kPortsWanted, " free ones at ", address, ", of ", range));
}

}  // namespace anneal
