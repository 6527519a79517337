#include "worker/trainer/engine/accelerator_loader.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/trainer/engine/cpu_accelerator.h"

namespace anneal::trainer {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::string> FindCudaLibrary() {
  std::error_code error;
  const fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const fs::path& candidate :
       {folder / kCudaLibrary, folder.parent_path() / "lib" / kCudaLibrary}) {
    if (fs::exists(candidate, error)) return candidate.string();
  }
  return absl::NotFoundError(absl::StrCat("device 'cuda' needs ", kCudaLibrary,
                                          ", which is not in ", folder.string(),
                                          " or ../lib beside it"));
}

template <typename Function>
absl::StatusOr<Function*> Find(const CudaLibrary& library, const char* name) {
  const auto function = reinterpret_cast<Function*>(dlsym(library.handle, name));
  if (function == nullptr)
    return absl::FailedPreconditionError(absl::StrCat(library.path, " lacks ", name));
  return function;
}

absl::StatusOr<std::unique_ptr<Accelerator>> LoadCudaAccelerator(
    const AcceleratorOptions& options) {
  ANNEAL_ASSIGN_OR_RETURN(const CudaLibrary library, LoadCudaLibrary());
  ANNEAL_ASSIGN_OR_RETURN(const auto make, Find<std::remove_pointer_t<MakeAcceleratorFunction>>(
                                               library, kMakeCudaAccelerator));
  absl::Status status;
  std::unique_ptr<Accelerator> accelerator(make(&options, &status));
  if (accelerator == nullptr) return status;
  return accelerator;
}

}  // namespace

absl::StatusOr<CudaLibrary> LoadCudaLibrary() {
  ANNEAL_ASSIGN_OR_RETURN(const std::string path, FindCudaLibrary());
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr)
    return absl::FailedPreconditionError(absl::StrCat("load ", path, ": ", dlerror()));
  return CudaLibrary{handle, path};
}

// These few declarations spare this library the headers, and with them CUDA itself.
absl::StatusOr<std::string> NcclVersion(const CudaLibrary& library) {
  ANNEAL_ASSIGN_OR_RETURN(const auto get, Find<int(int*)>(library, "ncclGetVersion"));
  int version = 0;
  if (const int result = get(&version); result != 0)
    return absl::FailedPreconditionError(absl::StrCat("ncclGetVersion returns ", result));
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

absl::StatusOr<int> CountCudaDevices(const CudaLibrary& library) {
  ANNEAL_ASSIGN_OR_RETURN(const auto count, Find<int(int*)>(library, "cudaGetDeviceCount"));
  ANNEAL_ASSIGN_OR_RETURN(const auto explain,
                          Find<const char*(int)>(library, "cudaGetErrorString"));
  int devices = 0;
  if (const int error = count(&devices); error != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("CUDA does not start on this machine: ", explain(error)));
  }
  return devices;
}

absl::StatusOr<std::unique_ptr<Accelerator>> LoadAccelerator(const std::string& device,
                                                             const AcceleratorOptions& options) {
  if (device == "cpu") return MakeCpuAccelerator();
  if (device == "cuda") return LoadCudaAccelerator(options);
  return absl::InvalidArgumentError(absl::StrCat("device '", device, "' is not cpu or cuda"));
}

}  // namespace anneal::trainer
