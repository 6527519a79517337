#include "worker/daemon/accelerator_inventory.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/host/nvml.h"
#include "worker/daemon/cgroup.h"
#include "worker/supervisor/cpu_list.h"

namespace anneal {
namespace {

// The value of the first line of /proc/cpuinfo that has one of these keys; empty if there is none.
absl::string_view ProcessorField(absl::string_view cpuinfo,
                                 std::initializer_list<absl::string_view> keys) {
  for (const absl::string_view line : absl::StrSplit(cpuinfo, '\n')) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (absl::c_linear_search(keys, absl::StripTrailingAsciiWhitespace(field.first)))
      return absl::StripAsciiWhitespace(field.second);
  }
  return "";
}

// All that /proc/cpuinfo says of the first processor is wanted, however many there are.
std::string ReadCpuInfo() {
  std::ifstream file("/proc/cpuinfo");
  std::string text;
  for (std::string line; std::getline(file, line) && !line.empty();)
    absl::StrAppend(&text, line, "\n");
  return text;
}

// Processors that one control group allows: "max 100000" or "150000 100000" (quota and period in
// microseconds).
double ProcessorLimitOf(const std::string& cgroup_dir) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  const absl::StatusOr<std::string> text = ReadSmallFile(cgroup_dir + "/cpu.max");
  if (!text.ok()) return kNone;
  const std::vector<std::string> fields = absl::StrSplit(absl::StripAsciiWhitespace(*text), ' ');
  double quota = 0, period = 0;
  if (fields.size() != 2 || !absl::SimpleAtod(fields[0], &quota) ||
      !absl::SimpleAtod(fields[1], &period) || period <= 0) {
    return kNone;
  }
  return quota / period;
}

// Bytes that one control group allows: "max" or "8589934592".
double MemoryLimitOf(const std::string& cgroup_dir) {
  const absl::StatusOr<std::string> text = ReadSmallFile(cgroup_dir + "/memory.max");
  int64_t bytes = 0;
  const bool limited = text.ok() && absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &bytes);
  return limited ? static_cast<double>(bytes) : std::numeric_limits<double>::infinity();
}

// The lowest limit of our control group and of those above it.
double LowestLimit(const std::string& root, const std::string& own_cgroup_file,
                   double (*limit_of)(const std::string& cgroup_dir)) {
  double limit = std::numeric_limits<double>::infinity();
  for (const std::string& folder : OwnCgroupFolders(root, own_cgroup_file))
    limit = std::min(limit, limit_of(folder));
  return limit;
}

absl::Status NoGpus(const std::string& nvml_library) {
  const std::string why = WhyNotLoaded(nvml_library);
  if (why.empty()) {
    return absl::FailedPreconditionError(
        "--require-gpus: the NVIDIA driver shows no GPU: give the worker some (on Kubernetes "
        "nvidia.com/gpu among the pod's limits, elsewhere NVIDIA_VISIBLE_DEVICES)");
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "--require-gpus: no GPU, as the driver's library cannot be loaded (", why,
      "): install the NVIDIA driver on the machine, and let the container have it (on Kubernetes "
      "runtimeClassName: nvidia, elsewhere NVIDIA's container runtime)"));
}

// Of the processors near the GPU those that we may use; "" for any if there are none.
std::string CpuListNear(const GpuDevice& gpu, const std::vector<int>& usable) {
  std::vector<int> near;
  std::set_intersection(gpu.near_processors.begin(), gpu.near_processors.end(), usable.begin(),
                        usable.end(), std::back_inserter(near));
  return FormatCpuList(near);
}

}  // namespace

bool HasBf16DotProducts(absl::string_view cpuinfo) {
  const std::vector<absl::string_view> features =
      absl::StrSplit(ProcessorField(cpuinfo, {"flags", "Features"}), ' ');
  return absl::c_any_of(features, [](absl::string_view feature) {
    return feature == "avx512_bf16" || feature == "amx_bf16" || feature == "bf16";
  });
}

int CountUsableProcessors(const std::string& cgroup_root, const std::string& own_cgroup_file) {
  const double limit = std::min<double>(
      UsableProcessors().size(), LowestLimit(cgroup_root, own_cgroup_file, ProcessorLimitOf));
  return std::max(1, static_cast<int>(std::floor(limit)));
}

int64_t CountUsableMemory(const std::string& cgroup_root, const std::string& own_cgroup_file) {
  const double machine = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGE_SIZE);
  return static_cast<int64_t>(
      std::min(machine, LowestLimit(cgroup_root, own_cgroup_file, MemoryLimitOf)));
}

int64_t MemoryOfCpuSlot(const InventoryOptions& options, int64_t usable_bytes, int cpu_slots) {
  const int64_t slots = std::max(1, cpu_slots);
  const int64_t reserved =
      options.reserved_memory_bytes + slots * options.reserved_memory_bytes_per_slot;
  // A small machine is rather tight than useless.
  return (usable_bytes - std::min(reserved, usable_bytes / 4)) / slots;
}

absl::StatusOr<std::vector<v1::Slot>> FindSlots(const InventoryOptions& options) {
  std::vector<GpuDevice> gpus;
  if (options.use_gpus) {
    ANNEAL_ASSIGN_OR_RETURN(gpus, ListGpus(options.nvml_library));
  }
  if (options.require_gpus && gpus.empty()) return NoGpus(options.nvml_library);
  const int processors = CountUsableProcessors();
  const int cpu_slots = options.cpu_slots >= 0 ? options.cpu_slots : (gpus.empty() ? 1 : 0);
  const int sharing = std::max<int>(1, cpu_slots > 0 ? cpu_slots : gpus.size());
  const int threads =
      options.threads_per_slot > 0 ? options.threads_per_slot : std::max(1, processors / sharing);
  if (cpu_slots * threads > processors) {
    ANNEAL_LOG(WARNING) << "CPU slots have more threads than there are processors"
                        << Field("slots", cpu_slots) << Field("threads_per_slot", threads)
                        << Field("processors", processors);
  }
  const int64_t memory = options.slot_memory_bytes > 0
                             ? options.slot_memory_bytes
                             : MemoryOfCpuSlot(options, CountUsableMemory(), cpu_slots);
  const std::string cpuinfo = ReadCpuInfo();
  const absl::string_view name = ProcessorField(cpuinfo, {"model name"});
  const bool bf16 = HasBf16DotProducts(cpuinfo);
  std::vector<v1::Slot> slots;
  for (int i = 0; i < cpu_slots; ++i) {
    v1::Slot& slot = slots.emplace_back();
    slot.set_id(absl::StrCat("cpu", i));
    slot.set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
    slot.set_device_name(name.empty() ? "CPU" : std::string(name));
    slot.set_bf16(bf16);
    slot.set_memory_bytes(memory);
    slot.set_threads(threads);
  }
  const std::vector<int> usable = UsableProcessors();
  for (const GpuDevice& gpu : gpus) {
    v1::Slot& slot = slots.emplace_back();
    slot.set_id(gpu.uuid);
    slot.set_accelerator(v1::ResourceSpec::ACCELERATOR_GPU);
    slot.set_device_name(gpu.name);
    slot.set_memory_bytes(gpu.memory_bytes);
    slot.set_threads(std::max<int>(1, processors / gpus.size()));
    slot.set_device_uuid(gpu.uuid);
    slot.set_cpu_list(CpuListNear(gpu, usable));
    slot.set_bf16(true);
  }
  return slots;
}

}  // namespace anneal
