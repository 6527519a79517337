#pragma once
// The folder a preparation writes: filled under a temporary name, published by rename, kept in the
// cache.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace anneal::prepare {

// Guarded by its caller. What is not published goes away with the object.
class OutputFolder {
 public:
  // Makes an empty folder beside `path`, named after `writer` so that two attempts do not meet.
  static absl::StatusOr<OutputFolder> Create(const std::string& path, absl::string_view writer);
  OutputFolder(OutputFolder&& other) noexcept;
  OutputFolder& operator=(OutputFolder&&) = delete;
  ~OutputFolder();

  // Where a file of this name is to be written.
  std::string File(absl::string_view name) const;
  // Writes a file durably.
  absl::Status Write(absl::string_view name, absl::string_view content);
  // Removes all files written so far.
  absl::Status Clear();
  // Gives every file of `source` a second name here (a hard link), or copies it where that cannot
  // be.
  absl::Status AddAllOf(const std::string& source);
  // Durably gives the folder its name. What has the name already is removed if `replace`, and
  // otherwise left: then ALREADY_EXISTS.
  absl::Status Publish(bool replace);

 private:
  OutputFolder(std::string path, std::string temporary)
      : path_(std::move(path)), temporary_(std::move(temporary)) {}

  const std::string path_;
  std::string temporary_;  // empty once published
};

}  // namespace anneal::prepare
