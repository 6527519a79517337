#pragma once
// The outputs of a job: written aside, listed with hashes, and published in one rename.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace anneal::trainer {

// While it lives, files go to path(), a folder beside the final one. Publish makes them appear under the final name, all or
// none; docs/formats/outputs.md lists what is there. Rank 0 only. Guarded by its caller.
class OutputFolder {
 public:
  // `final_dir`'s parent is made if needed. What an earlier try of this generation left is removed.
  static absl::StatusOr<std::unique_ptr<OutputFolder>> Create(const std::string& final_dir, int64_t generation);
  // Removes what was not published.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  // Where it lies until it is published.
  static std::string PathOf(const std::string& final_dir, int64_t generation);
  const std::string& path() const { return path_; }

  // Writes manifest.json, makes everything durable, renames; returns the SHA-256 of the manifest. A folder that an earlier
  // generation published but could not report is replaced: the job is the same, and only the newest generation may commit.
  absl::StatusOr<std::string> Publish();

 private:
  OutputFolder(std::string final_dir, std::string path) : final_dir_(std::move(final_dir)), path_(std::move(path)) {}

  const std::string final_dir_;
  const std::string path_;
  bool published_ = false;
};

}  // namespace anneal::trainer
