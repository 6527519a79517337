#pragma once
// What a worker runs on, for whoever is asked for help.

#include <map>
#include <string>

namespace anneal {

// Versions by name, as Worker.software documents them; what is not known is absent. `nvml_library`
// is empty on a worker that uses no GPUs. Loads neither torch nor CUDA: of torch and NCCL it says
// what the trainer was built with.
std::map<std::string, std::string> FindSoftware(const std::string& nvml_library);

}  // namespace anneal
