#include "worker/trainer/engine/accelerator_loader.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

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

absl::StatusOr<std::unique_ptr<Accelerator>> LoadCudaAccelerator(
    const AcceleratorOptions& options) {
  ANNEAL_ASSIGN_OR_RETURN(const std::string path, FindCudaLibrary());
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr)
    return absl::FailedPreconditionError(absl::StrCat("load ", path, ": ", dlerror()));
  const auto make = reinterpret_cast<MakeAcceleratorFunction>(dlsym(library, kMakeCudaAccelerator));
  if (make == nullptr)
    return absl::FailedPreconditionError(absl::StrCat(path, " lacks ", kMakeCudaAccelerator));
  absl::Status status;
  std::unique_ptr<Accelerator> accelerator(make(&options, &status));
  if (accelerator == nullptr) return status;
  return accelerator;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Accelerator>> LoadAccelerator(const std::string& device,
                                                             const AcceleratorOptions& options) {
  if (device == "cpu") return MakeCpuAccelerator();
  if (device == "cuda") return LoadCudaAccelerator(options);
  return absl::InvalidArgumentError(absl::StrCat("device '", device, "' is not cpu or cuda"));
}

}  // namespace anneal::trainer
