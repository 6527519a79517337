#include "common/host/machine_checks.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
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

// Of the CUDA that anneal-trainer is built with; newer minor versions run on the same drivers.
constexpr int kCudaMajorVersion = 13;
// As NCCL takes with eight GPUs, with room to spare.
constexpr int64_t kSharedMemoryForGpus = int64_t{1} << 30;
constexpr size_t kBytesWritten = 1 << 20;
// At a time: more than the trainers of one machine open between them.
constexpr int kPortsWanted = 64;

std::string CudaVersionText(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
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

v1::Check CheckGpuDriver(const std::string& library) {
  const absl::StatusOr<std::optional<GpuDriver>> driver = ReadGpuDriver(library);
  const absl::StatusOr<std::vector<GpuDevice>> gpus = ListGpus(library);
  const absl::Status status = driver.ok() ? gpus.status() : driver.status();
  if (!status.ok()) {
    return FailedCheck(kGpuDriver, status.message(),
                       "make nvidia-smi work here first; a driver that was upgraded needs its "
                       "kernel module loaded again, or a restart of the machine");
  }
  if (!driver->has_value()) return OkCheck(kGpuDriver, "none: this machine has CPU slots only");
  const std::string measured =
      absl::StrCat((*driver)->version, " with ", gpus->size(), " GPUs, runs CUDA up to ",
                   CudaVersionText((*driver)->cuda_version));
  if ((*driver)->cuda_version / 1000 < kCudaMajorVersion) {
    return FailedCheck(kGpuDriver, measured,
                       absl::StrCat("install a driver that runs CUDA ", kCudaMajorVersion,
                                    ".0, with which the trainer is built"));
  }
  if (gpus->empty())
    return WarningCheck(kGpuDriver, measured, "the driver shows no GPU: look at nvidia-smi");
  return OkCheck(kGpuDriver, measured);
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
