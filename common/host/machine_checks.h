#pragma once
// Whether a machine is fit to train on: what it has of its own.

#include <cstdint>
#include <string>

#include "anneal/v1/cluster_service.pb.h"

namespace anneal {

// Whether the NVIDIA driver works and is new enough for anneal-trainer. Where the machine has no
// GPU, no driver is no fault: it has CPU slots. `library` as in nvml.h; `bus` lists the PCI
// devices, in containers too.
v1::Check CheckGpuDriver(const std::string& library,
                         const std::string& bus = "/sys/bus/pci/devices");

// Whether NCCL can use the RDMA adapters that the machine has: their devices must be open to this
// process and as much memory lockable as it likes. None is no fault: NCCL takes TCP. `devices` has
// their special files, `adapters` their names; `lockable_bytes`: the limit of this process.
v1::Check CheckRdma(uint64_t lockable_bytes, const std::string& devices = "/dev/infiniband",
                    const std::string& adapters = "/sys/class/infiniband");
// RLIMIT_MEMLOCK; UINT64_MAX = unlimited.
uint64_t LockableBytes();

// NCCL passes data between the GPUs of a machine through `path` and fails in the midst of a job
// where that is too small; containers get 64 MiB unless told otherwise. Writes there, too.
v1::Check CheckSharedMemory(int gpus, const std::string& path = "/dev/shm");

// Whether trainers find free ports at `address`, an IP address, for their collectives, as they do
// it: any that the kernel gives. `range_file` says which those are.
v1::Check CheckPorts(const std::string& address,
                     const std::string& range_file = "/proc/sys/net/ipv4/ip_local_port_range");

}  // namespace anneal
