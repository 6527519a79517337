#pragma once
// Whether a machine is fit to train on: what it has of its own.

#include <string>

#include "anneal/v1/cluster_service.pb.h"

namespace anneal {

// Whether the NVIDIA driver works and is new enough for anneal-trainer. No driver is no fault: such
// a machine has CPU slots. `library` as in nvml.h.
v1::Check CheckGpuDriver(const std::string& library);

// NCCL passes data between the GPUs of a machine through `path` and fails in the midst of a job
// where that is too small; containers get 64 MiB unless told otherwise. Writes there, too.
v1::Check CheckSharedMemory(int gpus, const std::string& path = "/dev/shm");

// Whether trainers find free ports at `address`, an IP address, for their collectives, as they do
// it: any that the kernel gives. `range_file` says which those are.
v1::Check CheckPorts(const std::string& address,
                     const std::string& range_file = "/proc/sys/net/ipv4/ip_local_port_range");

}  // namespace anneal
