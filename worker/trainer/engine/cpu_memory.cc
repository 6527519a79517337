#include "worker/trainer/engine/cpu_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <atomic>
#include <cstddef>
#include <cstring>

namespace anneal::trainer {
namespace {

// Before what is handed out, so that it stays aligned as torch's own allocator aligns.
constexpr size_t kHeaderBytes = 64;

std::atomic<int64_t> held_bytes{0};
std::atomic<int64_t> peak_bytes{0};

void Count(int64_t bytes) {
  const int64_t held = held_bytes.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t peak = peak_bytes.load(std::memory_order_relaxed);
  while (held > peak && !peak_bytes.compare_exchange_weak(peak, held, std::memory_order_relaxed)) {
  }
}

void Delete(void* data) {
  if (data == nullptr) return;
  std::byte* const block = static_cast<std::byte*>(data) - kHeaderBytes;
  int64_t bytes;
  std::memcpy(&bytes, block, sizeof(bytes));
  Count(-bytes);
  c10::free_cpu(block);
}

// Takes memory where torch's own CPU allocator does, with its size in front.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &Delete, at::kCPU};
    auto* const block = static_cast<std::byte*>(c10::alloc_cpu(bytes + kHeaderBytes));
    const int64_t counted = static_cast<int64_t>(bytes);
    std::memcpy(block, &counted, sizeof(counted));
    Count(counted);
    void* const data = block + kHeaderBytes;
    return {data, data, &Delete, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Delete; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace

void CountCpuTensors() {
  static CountingAllocator* const allocator = [] {
    auto* const made = new CountingAllocator;  // tensors may outlive every static object
    c10::SetCPUAllocator(made, /*priority=*/1);
    return made;
  }();
  (void)allocator;
}

int64_t PeakCpuTensorBytes() { return peak_bytes.load(std::memory_order_relaxed); }

}  // namespace anneal::trainer
