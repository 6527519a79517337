#pragma once
// A tar archive in the ustar format of POSIX.1-1988, as every tar reads it.

#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace anneal::cli {

// Guarded by its caller.
class TarWriter {
 public:
  // A new file that only its owner may read; one that is there is replaced.
  static absl::StatusOr<TarWriter> Create(const std::string& path);

  // One file of at most 8 GiB. `name` has at most 100 bytes.
  absl::Status Add(absl::string_view name, absl::string_view content, absl::Time changed);
  // Writes the end. Without it the archive is not whole.
  absl::Status Finish();

 private:
  TarWriter(std::string path, std::ofstream out) : path_(std::move(path)), out_(std::move(out)) {}

  absl::Status Written();

  std::string path_;
  std::ofstream out_;
};

}  // namespace anneal::cli
