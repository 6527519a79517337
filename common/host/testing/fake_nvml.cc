// Stands for libnvidia-ml.so.1 with two GPUs. Built as a shared library, loaded by tests. With
// FAKE_NVML_BROKEN defined its start fails, as that of a driver does that does not fit the kernel;
// with FAKE_NVML_OLD the driver runs no CUDA newer than 12.4; with FAKE_NVML_COMPAT it is an older
// one that runs CUDA 13 all the same.

#include <sched.h>

#include <cstring>

struct FakeMemory {
  unsigned long long total, free, used;
};

extern "C" {

#ifdef FAKE_NVML_BROKEN
int nvmlInit_v2() { return 18; }
#else
int nvmlInit_v2() { return 0; }
#endif
int nvmlShutdown() { return 0; }
const char* nvmlErrorString(int) { return "Driver/library version mismatch"; }
int nvmlSystemGetDriverVersion(char* version, unsigned length) {
#ifdef FAKE_NVML_COMPAT
  std::strncpy(version, "570.86.15", length);
#else
  std::strncpy(version, "580.65.06", length);
#endif
  return 0;
}
int nvmlSystemGetCudaDriverVersion_v2(int* version) {
#ifdef FAKE_NVML_OLD
  *version = 12040;
#else
  *version = 13000;
#endif
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 3;  // one of which is somebody else's
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  static char devices[2];
  if (index == 2) return 4;  // NVML_ERROR_NO_PERMISSION
  *device = &devices[index];
  devices[index] = static_cast<char>('0' + index);
  return 0;
}
int nvmlDeviceGetUUID(void* device, char* uuid, unsigned length) {
  std::strncpy(uuid, "GPU-0000000?", length);
  uuid[11] = *static_cast<char*>(device);
  return 0;
}
int nvmlDeviceGetName(void*, char* name, unsigned length) {
  std::strncpy(name, "NVIDIA H100 80GB HBM3", length);
  return 0;
}
int nvmlDeviceGetMemoryInfo(void*, FakeMemory* memory) {
  *memory = {.total = 80ull << 30, .free = 79ull << 30, .used = 1ull << 30};
  return 0;
}
struct FakeUtilization {
  unsigned gpu, memory;
};
int nvmlDeviceGetUtilizationRates(void*, FakeUtilization* utilization) {
  *utilization = {.gpu = 75, .memory = 10};
  return 0;
}
int nvmlDeviceGetTemperature(void*, int, unsigned* celsius) {
  *celsius = 61;
  return 0;
}
int nvmlDeviceGetPowerUsage(void*, unsigned* milliwatts) {
  *milliwatts = 350000;
  return 0;
}
// The second GPU does not count errors.
int nvmlDeviceGetTotalEccErrors(void* device, int, int, unsigned long long* errors) {
  *errors = 2;
  return *static_cast<char*>(device) == '1' ? 3 : 0;
}

// The first GPU is near the first processor that this process may use, the second one near none.
int nvmlDeviceGetCpuAffinity(void* device, unsigned words, unsigned long* set) {
  std::memset(set, 0, words * sizeof(*set));
  if (*static_cast<char*>(device) != '0') return 0;
  cpu_set_t usable;
  sched_getaffinity(0, sizeof(usable), &usable);
  int first = 0;
  while (!CPU_ISSET(first, &usable)) ++first;
  set[first / 64] = 1ul << (first % 64);
  return 0;
}

}  // extern "C"
