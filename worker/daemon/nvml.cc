#include "worker/daemon/nvml.h"

#include <dlfcn.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace anneal {
namespace {

// The few declarations of nvml.h that we use; its ABI is stable by promise.
using NvmlReturn = int;
using NvmlDevice = struct nvmlDevice_st*;
struct NvmlMemory {
  unsigned long long total, free, used;
};
constexpr unsigned kNameBytes =
    96;  // NVML_DEVICE_UUID_V2_BUFFER_SIZE and NVML_DEVICE_NAME_V2_BUFFER_SIZE

struct Library {
  explicit Library(const std::string& name)
      : handle(::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {}
  ~Library() {
    if (handle != nullptr) ::dlclose(handle);
  }
  template <typename Function>
  absl::Status Load(const char* name, Function** function) const {
    *function = reinterpret_cast<Function*>(::dlsym(handle, name));
    if (*function == nullptr)
      return absl::FailedPreconditionError(absl::StrCat("the NVIDIA driver has no ", name));
    return absl::OkStatus();
  }
  void* const handle;
};

struct Nvml {
  NvmlReturn (*Init)();
  NvmlReturn (*Shutdown)();
  const char* (*ErrorString)(NvmlReturn);
  NvmlReturn (*DeviceGetCount)(unsigned*);
  NvmlReturn (*DeviceGetHandleByIndex)(unsigned, NvmlDevice*);
  NvmlReturn (*DeviceGetUuid)(NvmlDevice, char*, unsigned);
  NvmlReturn (*DeviceGetName)(NvmlDevice, char*, unsigned);
  NvmlReturn (*DeviceGetMemoryInfo)(NvmlDevice, NvmlMemory*);

  absl::Status LoadFrom(const Library& library) {
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlInit_v2", &Init));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlShutdown", &Shutdown));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlErrorString", &ErrorString));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetCount_v2", &DeviceGetCount));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetHandleByIndex_v2", &DeviceGetHandleByIndex));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetUUID", &DeviceGetUuid));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetName", &DeviceGetName));
    return library.Load("nvmlDeviceGetMemoryInfo", &DeviceGetMemoryInfo);
  }
  absl::Status Check(NvmlReturn code, absl::string_view action) const {
    if (code == 0) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("the NVIDIA driver cannot ", action, ": ", ErrorString(code)));
  }
};

absl::StatusOr<std::vector<GpuDevice>> ListDevices(const Nvml& nvml) {
  unsigned count = 0;
  ANNEAL_RETURN_IF_ERROR(nvml.Check(nvml.DeviceGetCount(&count), "count the GPUs"));
  std::vector<GpuDevice> devices;
  for (unsigned i = 0; i < count; ++i) {
    NvmlDevice device = nullptr;
    char uuid[kNameBytes] = "", name[kNameBytes] = "";
    NvmlMemory memory = {};
    const std::string gpu = absl::StrCat("GPU ", i);
    ANNEAL_RETURN_IF_ERROR(
        nvml.Check(nvml.DeviceGetHandleByIndex(i, &device), absl::StrCat("open ", gpu)));
    ANNEAL_RETURN_IF_ERROR(
        nvml.Check(nvml.DeviceGetUuid(device, uuid, kNameBytes), absl::StrCat("name ", gpu)));
    ANNEAL_RETURN_IF_ERROR(
        nvml.Check(nvml.DeviceGetName(device, name, kNameBytes), absl::StrCat("describe ", gpu)));
    ANNEAL_RETURN_IF_ERROR(
        nvml.Check(nvml.DeviceGetMemoryInfo(device, &memory), absl::StrCat("measure ", gpu)));
    devices.push_back(
        {.uuid = uuid, .name = name, .memory_bytes = static_cast<int64_t>(memory.total)});
  }
  return devices;
}

}  // namespace

absl::StatusOr<std::vector<GpuDevice>> ListGpus(const std::string& library_name) {
  const Library library(library_name);
  if (library.handle == nullptr) return std::vector<GpuDevice>{};
  Nvml nvml;
  ANNEAL_RETURN_IF_ERROR(nvml.LoadFrom(library));
  ANNEAL_RETURN_IF_ERROR(nvml.Check(nvml.Init(), "start"));
  absl::StatusOr<std::vector<GpuDevice>> devices = ListDevices(nvml);
  nvml.Shutdown();
  return devices;
}

}  // namespace anneal
