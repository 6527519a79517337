#pragma once
// What this machine can lend to trainers.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "anneal/v1/cluster_service.pb.h"
#include "worker/daemon/cgroup.h"

namespace anneal {

struct InventoryOptions {
  // Shares of CPU cores. -1 = one if there is no GPU, else none.
  int cpu_slots = -1;
  // Of each CPU slot. 0 = the usable processors divided by the slots.
  int threads_per_slot = 0;
  // Of each CPU slot. 0 = MemoryOfCpuSlot.
  int64_t slot_memory_bytes = 0;
  // What the worker's other processes take of the usable memory: those that are there once, and
  // those that each slot has.
  int64_t reserved_memory_bytes = 0, reserved_memory_bytes_per_slot = 0;
  bool use_gpus = true;
  // No GPU is an error, not a machine that lends its CPU cores.
  bool require_gpus = false;
  // NVIDIA's management library; absent = no GPUs.
  std::string nvml_library = "libnvidia-ml.so.1";
};

// CPU slots "cpu0", "cpu1", ...; then one slot for each GPU, whose id is the device's UUID. Looked
// up once, at the daemon's start. Memory is the machine's, or what the control groups leave of it
// (memory.max). A GPU driver that is there but broken is an error: silently
// having no GPUs would only show as jobs that wait for ever. So is no GPU where some are required
// (FAILED_PRECONDITION says what is missing).
absl::StatusOr<std::vector<v1::Slot>> FindSlots(const InventoryOptions& options);

// Whether a processor with these features (the "flags" of x86 or "Features" of Arm in
// /proc/cpuinfo) has bf16 dot products.
bool HasBf16DotProducts(absl::string_view cpuinfo);

// A slot's part of the usable memory. Less than all of it is shared out, a quarter at most is left:
// a control group that reaches its limit is killed as a whole where the kubelet has set
// memory.oom.group, and so a trainer that takes too much must be seen before (ProcessWatch).
int64_t MemoryOfCpuSlot(const InventoryOptions& options, int64_t usable_bytes, int cpu_slots);

// Processors that this process may use: those of its affinity mask, less what the limits of its
// control groups (cgroup v2, cpu.max) leave; at least 1. The paths are for tests.
int CountUsableProcessors(const std::string& cgroup_root = kCgroupRoot,
                          const std::string& own_cgroup_file = kOwnCgroupFile);
// The same for bytes of memory (cgroup v2, memory.max).
int64_t CountUsableMemory(const std::string& cgroup_root = kCgroupRoot,
                          const std::string& own_cgroup_file = kOwnCgroupFile);

}  // namespace anneal
