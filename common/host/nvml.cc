#include "common/host/nvml.h"

#include <dlfcn.h>
#include <sched.h>

#include <functional>
#include <iterator>

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
struct NvmlUtilization {
  unsigned gpu, memory;  // percent
};
constexpr int kTemperatureGpu = 0;           // NVML_TEMPERATURE_GPU
constexpr int kMemoryErrorUncorrected = 1;   // NVML_MEMORY_ERROR_TYPE_UNCORRECTED
constexpr int kErrorsSinceDriverLoaded = 0;  // NVML_VOLATILE_ECC
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
  NvmlReturn (*SystemGetDriverVersion)(char*, unsigned);
  NvmlReturn (*SystemGetCudaDriverVersion)(int*);
  NvmlReturn (*DeviceGetCount)(unsigned*);
  NvmlReturn (*DeviceGetHandleByIndex)(unsigned, NvmlDevice*);
  NvmlReturn (*DeviceGetUuid)(NvmlDevice, char*, unsigned);
  NvmlReturn (*DeviceGetName)(NvmlDevice, char*, unsigned);
  NvmlReturn (*DeviceGetMemoryInfo)(NvmlDevice, NvmlMemory*);
  NvmlReturn (*DeviceGetUtilizationRates)(NvmlDevice, NvmlUtilization*);
  NvmlReturn (*DeviceGetTemperature)(NvmlDevice, int, unsigned*);
  NvmlReturn (*DeviceGetPowerUsage)(NvmlDevice, unsigned*);
  NvmlReturn (*DeviceGetTotalEccErrors)(NvmlDevice, int, int, unsigned long long*);
  NvmlReturn (*DeviceGetCpuAffinity)(NvmlDevice, unsigned, unsigned long*);

  absl::Status LoadFrom(const Library& library) {
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlInit_v2", &Init));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlShutdown", &Shutdown));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlErrorString", &ErrorString));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlSystemGetDriverVersion", &SystemGetDriverVersion));
    ANNEAL_RETURN_IF_ERROR(
        library.Load("nvmlSystemGetCudaDriverVersion_v2", &SystemGetCudaDriverVersion));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetCount_v2", &DeviceGetCount));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetHandleByIndex_v2", &DeviceGetHandleByIndex));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetUUID", &DeviceGetUuid));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetName", &DeviceGetName));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetMemoryInfo", &DeviceGetMemoryInfo));
    ANNEAL_RETURN_IF_ERROR(
        library.Load("nvmlDeviceGetUtilizationRates", &DeviceGetUtilizationRates));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetTemperature", &DeviceGetTemperature));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetPowerUsage", &DeviceGetPowerUsage));
    ANNEAL_RETURN_IF_ERROR(library.Load("nvmlDeviceGetTotalEccErrors", &DeviceGetTotalEccErrors));
    return library.Load("nvmlDeviceGetCpuAffinity", &DeviceGetCpuAffinity);
  }
  absl::Status Check(NvmlReturn code, absl::string_view action) const {
    if (code == 0) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("the NVIDIA driver cannot ", action, ": ", ErrorString(code)));
  }
};

// NVML counts all GPUs of the machine, also those that a control group keeps from us, as Slurm does
// with ConstrainDevices=yes (nvml.h, nvmlDeviceGetCount_v2).
constexpr NvmlReturn kNoPermission = 4;

// Calls `look(device, uuid, memory)` for each GPU that we may use, between the library's start and
// its end.
absl::Status ForEachDevice(
    const Nvml& nvml,
    const std::function<absl::Status(NvmlDevice, const std::string&, const NvmlMemory&)>& look) {
  unsigned count = 0;
  ANNEAL_RETURN_IF_ERROR(nvml.Check(nvml.DeviceGetCount(&count), "count the GPUs"));
  for (unsigned i = 0; i < count; ++i) {
    NvmlDevice device = nullptr;
    char uuid[kNameBytes] = "";
    NvmlMemory memory = {};
    const std::string gpu = absl::StrCat("GPU ", i);
    const NvmlReturn opened = nvml.DeviceGetHandleByIndex(i, &device);
    if (opened == kNoPermission) continue;
    ANNEAL_RETURN_IF_ERROR(nvml.Check(opened, absl::StrCat("open ", gpu)));
    ANNEAL_RETURN_IF_ERROR(
        nvml.Check(nvml.DeviceGetUuid(device, uuid, kNameBytes), absl::StrCat("name ", gpu)));
    ANNEAL_RETURN_IF_ERROR(
        nvml.Check(nvml.DeviceGetMemoryInfo(device, &memory), absl::StrCat("measure ", gpu)));
    ANNEAL_RETURN_IF_ERROR(look(device, uuid, memory));
  }
  return absl::OkStatus();
}

// Loads `library_name` and calls `use(nvml)`; nothing if it is not installed.
absl::Status WithNvml(const std::string& library_name,
                      const std::function<absl::Status(const Nvml&)>& use) {
  const Library library(library_name);
  if (library.handle == nullptr) return absl::OkStatus();
  Nvml nvml;
  ANNEAL_RETURN_IF_ERROR(nvml.LoadFrom(library));
  ANNEAL_RETURN_IF_ERROR(nvml.Check(nvml.Init(), "start"));
  const absl::Status status = use(nvml);
  nvml.Shutdown();
  return status;
}

// Virtual machines and some systems do not tell; that is no error.
std::vector<int> NearProcessors(const Nvml& nvml, NvmlDevice device) {
  constexpr int kWordBits = 8 * sizeof(unsigned long);
  unsigned long words[CPU_SETSIZE / kWordBits] = {};
  std::vector<int> processors;
  if (nvml.DeviceGetCpuAffinity(device, std::size(words), words) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if ((words[i / kWordBits] >> (i % kWordBits) & 1) != 0) processors.push_back(i);
  }
  return processors;
}

GpuReading Read(const Nvml& nvml, NvmlDevice device, const std::string& uuid,
                const NvmlMemory& memory) {
  GpuReading reading{.uuid = uuid,
                     .memory_bytes = static_cast<int64_t>(memory.total),
                     .used_memory_bytes = static_cast<int64_t>(memory.used)};
  NvmlUtilization utilization = {};
  if (nvml.DeviceGetUtilizationRates(device, &utilization) == 0)
    reading.busy_ratio = utilization.gpu / 100.0;
  unsigned number = 0;
  if (nvml.DeviceGetTemperature(device, kTemperatureGpu, &number) == 0)
    reading.temperature_celsius = number;
  if (nvml.DeviceGetPowerUsage(device, &number) == 0) reading.power_watts = number / 1000.0;
  unsigned long long errors = 0;
  if (nvml.DeviceGetTotalEccErrors(device, kMemoryErrorUncorrected, kErrorsSinceDriverLoaded,
                                   &errors) == 0) {
    reading.uncorrected_errors = static_cast<int64_t>(errors);
  }
  return reading;
}

}  // namespace

std::string WhyNotLoaded(const std::string& library) {
  const Library loaded(library);
  if (loaded.handle != nullptr) return "";
  const char* why = ::dlerror();
  return why == nullptr ? library : why;
}

absl::StatusOr<std::optional<GpuDriver>> ReadGpuDriver(const std::string& library) {
  std::optional<GpuDriver> driver;
  ANNEAL_RETURN_IF_ERROR(WithNvml(library, [&](const Nvml& nvml) -> absl::Status {
    char version[kNameBytes] = "";
    driver.emplace();
    ANNEAL_RETURN_IF_ERROR(
        nvml.Check(nvml.SystemGetDriverVersion(version, kNameBytes), "say its version"));
    driver->version = version;
    return nvml.Check(nvml.SystemGetCudaDriverVersion(&driver->cuda_version),
                      "say which CUDA it runs");
  }));
  return driver;
}

absl::StatusOr<std::vector<GpuDevice>> ListGpus(const std::string& library) {
  std::vector<GpuDevice> devices;
  ANNEAL_RETURN_IF_ERROR(WithNvml(library, [&](const Nvml& nvml) {
    return ForEachDevice(
        nvml,
        [&](NvmlDevice device, const std::string& uuid, const NvmlMemory& memory) -> absl::Status {
          char name[kNameBytes] = "";
          ANNEAL_RETURN_IF_ERROR(nvml.Check(nvml.DeviceGetName(device, name, kNameBytes),
                                            absl::StrCat("describe ", uuid)));
          devices.push_back({.uuid = uuid,
                             .name = name,
                             .memory_bytes = static_cast<int64_t>(memory.total),
                             .near_processors = NearProcessors(nvml, device)});
          return absl::OkStatus();
        });
  }));
  return devices;
}

absl::StatusOr<std::vector<GpuReading>> ReadGpus(const std::string& library) {
  std::vector<GpuReading> readings;
  ANNEAL_RETURN_IF_ERROR(WithNvml(library, [&](const Nvml& nvml) {
    return ForEachDevice(nvml,
                         [&](NvmlDevice device, const std::string& uuid, const NvmlMemory& memory) {
                           readings.push_back(Read(nvml, device, uuid, memory));
                           return absl::OkStatus();
                         });
  }));
  return readings;
}

}  // namespace anneal
