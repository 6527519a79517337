#include "worker/daemon/accelerator_inventory.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "worker/daemon/nvml.h"

namespace anneal {
namespace {

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (absl::StartsWith(line, "model name") && colon != std::string::npos)
      return line.substr(colon + 2);
  }
  return "CPU";
}

// Processors that one control group allows: "max 100000" or "150000 100000" (quota and period in
// microseconds).
double LimitOf(const std::string& cgroup_dir) {
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

// The lowest limit of our control group and of those above it.
double CgroupLimit(const std::string& root, const std::string& own_cgroup_file) {
  const absl::StatusOr<std::string> text = ReadSmallFile(own_cgroup_file);
  std::string path;
  if (text.ok()) {
    for (absl::string_view line : absl::StrSplit(*text, '\n')) {
      if (absl::ConsumePrefix(&line, "0::")) path = std::string(line);
    }
  }
  double limit = LimitOf(root);
  while (path.size() > 1) {
    limit = std::min(limit, LimitOf(root + path));
    path.erase(path.rfind('/'));
  }
  return limit;
}

}  // namespace

int CountUsableProcessors(const std::string& cgroup_root, const std::string& own_cgroup_file) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int in_mask =
      ::sched_getaffinity(0, sizeof(set), &set) == 0
          ? CPU_COUNT(&set)
          : static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));  // more than 1024 processors
  const double limit = std::min<double>(in_mask, CgroupLimit(cgroup_root, own_cgroup_file));
  return std::max(1, static_cast<int>(std::floor(limit)));
}

absl::StatusOr<std::vector<v1::Slot>> FindSlots(const InventoryOptions& options) {
  std::vector<GpuDevice> gpus;
  if (options.use_gpus) {
    ANNEAL_ASSIGN_OR_RETURN(gpus, ListGpus(options.nvml_library));
  }
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
  const int64_t memory = static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGE_SIZE);
  std::vector<v1::Slot> slots;
  for (int i = 0; i < cpu_slots; ++i) {
    v1::Slot& slot = slots.emplace_back();
    slot.set_id(absl::StrCat("cpu", i));
    slot.set_accelerator(v1::ResourceSpec::ACCELERATOR_CPU);
    slot.set_device_name(ProcessorName());
    slot.set_memory_bytes(memory / cpu_slots);
    slot.set_threads(threads);
  }
  for (const GpuDevice& gpu : gpus) {
    v1::Slot& slot = slots.emplace_back();
    slot.set_id(gpu.uuid);
    slot.set_accelerator(v1::ResourceSpec::ACCELERATOR_GPU);
    slot.set_device_name(gpu.name);
    slot.set_memory_bytes(gpu.memory_bytes);
    slot.set_threads(std::max<int>(1, processors / gpus.size()));
    slot.set_device_uuid(gpu.uuid);
  }
  return slots;
}

}  // namespace anneal
