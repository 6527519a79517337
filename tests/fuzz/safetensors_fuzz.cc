// Any file: refused, or every byte of every tensor it names can be read.

#include "common/format/safetensors.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const anneal::fuzz::MemoryFile file(data, size);
  const auto opened = anneal::SafetensorsFile::Open(file.path());
  if (!opened.ok()) return 0;
  size_t total = 0;
  volatile unsigned sum = 0;  // so that the reads are not left out
  for (const auto& [name, tensor] : (*opened)->tensors()) {
    total += tensor.bytes.size();
    for (const std::byte byte : tensor.bytes) sum = sum + static_cast<unsigned>(byte);
  }
  ANNEAL_CHECK(total <= size);
  return 0;
}
