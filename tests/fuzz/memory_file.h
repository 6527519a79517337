#pragma once
// Bytes as a file that readers can open and map, without a disk.

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/base/file.h"
#include "common/base/status.h"

namespace anneal::fuzz {

class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    ANNEAL_CHECK(fd_.valid());
    ANNEAL_CHECK(::write(fd_.get(), data, size) == static_cast<ssize_t>(size));
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_.get()); }

 private:
  const UniqueFd fd_;
};

}  // namespace anneal::fuzz
