#pragma once
// SHA-256 (FIPS 180-4), by OpenSSL's libcrypto.

#include <cstddef>
#include <memory>
#include <string>
#include "absl/strings/string_view.h"

#include "absl/status/statusor.h"

namespace anneal {

// Streaming hash. Guarded by its caller.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(const void* data, size_t bytes);
  void Update(absl::string_view data) { Update(data.data(), data.size()); }
  // 64 lower-case hexadecimal digits. Call once.
  std::string HexDigest();

 private:
  void* context_;
};

std::string Sha256Hex(absl::string_view data);
// Reads the file once. NOT_FOUND or the errno's code with the path.
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);

}  // namespace anneal
