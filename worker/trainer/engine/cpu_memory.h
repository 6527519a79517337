#pragma once
// How much memory tensors on the CPU take.

#include <cstdint>

namespace anneal::trainer {

// From the first call on, every tensor that this process makes on the CPU is counted. Thread-safe.
void CountCpuTensors();
// The most bytes that counted tensors have held at one time. Thread-safe.
int64_t PeakCpuTensorBytes();

}  // namespace anneal::trainer
