#include "worker/daemon/software.h"

#include <gnu/libc-version.h>
#include <sys/utsname.h>

#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/host/nvml.h"

namespace anneal {
namespace {

#ifdef __clang__
constexpr char kCompiler[] = "clang " __clang_version__;
#else
constexpr char kCompiler[] = "gcc " __VERSION__;
#endif

}  // namespace

std::map<std::string, std::string> FindSoftware(const std::string& nvml_library) {
  std::map<std::string, std::string> found = {{"glibc", ::gnu_get_libc_version()},
                                              {"compiler", kCompiler}};
  struct utsname name = {};
  if (::uname(&name) == 0) found["kernel"] = absl::StrCat(name.release, " ", name.machine);
  // Empty where the build has no trainer, or none for GPUs.
  if (*ANNEAL_TORCH_VERSION != '\0') found["torch"] = ANNEAL_TORCH_VERSION;
  if (*ANNEAL_NCCL_VERSION != '\0') found["nccl"] = ANNEAL_NCCL_VERSION;
  if (nvml_library.empty()) return found;
  const absl::StatusOr<std::optional<GpuDriver>> driver = ReadGpuDriver(nvml_library);
  if (!driver.ok()) {
    found["gpu_driver"] = std::string(driver.status().message());
  } else if (driver->has_value()) {
    found["gpu_driver"] = (*driver)->version;
    const int cuda = (*driver)->cuda_version;
    found["cuda"] = absl::StrCat(cuda / 1000, ".", cuda % 1000 / 10);
  }
  return found;
}

}  // namespace anneal
