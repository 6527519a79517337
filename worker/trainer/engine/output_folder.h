#pragma once
// The outputs of a job as rank 0 leaves them: whole, durable, listed with hashes.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace anneal::trainer {

// A folder that is removed with this unless it is sealed; docs/formats/outputs.md lists what is
// there. It is one generation's own: the coordinator gives it the job's name, so a generation that
// was given up changes nothing, however late it comes. Rank 0 only. Guarded by its caller.
class OutputFolder {
 public:
  // Makes the folder and those above. What is there is removed: an earlier try of the same task.
  static absl::StatusOr<std::unique_ptr<OutputFolder>> Create(const std::string& path);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::string& path() const { return path_; }

  // Writes manifest.json and makes everything durable; returns the SHA-256 of the manifest.
  absl::StatusOr<std::string> Seal();

 private:
  explicit OutputFolder(std::string path) : path_(std::move(path)) {}

  const std::string path_;
  bool sealed_ = false;
};

}  // namespace anneal::trainer
