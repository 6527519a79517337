#pragma once
// Data files of users, without gRPC: records in the catalog, contents in the storage root.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/v1/file_service.pb.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/storage/content_store.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/catalog/resource_store.h"

namespace anneal {

// As the API shows it.
v1::File FileFrom(const internal::FileRecord& record);

// Purpose: uploads. Content first becomes durable under its hash, then the file is recorded, then
// the upload is marked complete; a crash in between costs at most sending the content again, and
// never makes a second file. Owner: Coordinator. Thread-safe. All calls touch the disk.
class FileLibrary {
 public:
  struct Options {
    int64_t max_file_bytes = int64_t{100} << 30;
    // Uploads are refused that would leave less than this on the disk.
    int64_t min_free_bytes = int64_t{1} << 30;
  };
  struct Parts {
    ResourceStore& resources;
    ProjectLimits& limits;
    StorageRoot& root;
    Clock& clock;
    Random& random;
  };

  // An upload that goes on. Guarded by its caller.
  class Upload {
   public:
    absl::Status Append(absl::string_view chunk) { return writer_->Append(chunk); }
    // Makes the file. OUT_OF_RANGE (reason UPLOAD_INCOMPLETE) if bytes are missing; what has come
    // is kept.
    absl::StatusOr<v1::File> Finish();

   private:
    friend class FileLibrary;
    Upload(FileLibrary& library, internal::UploadRecord record, std::unique_ptr<BlobWriter> writer)
        : library_(library), record_(std::move(record)), writer_(std::move(writer)) {}

    FileLibrary& library_;
    internal::UploadRecord record_;
    std::unique_ptr<BlobWriter> writer_;
  };

  // Either the upload to write to, or the file if there is nothing left to send.
  struct Begun {
    std::optional<v1::File> file;
    std::unique_ptr<Upload> upload;
  };

  FileLibrary(Parts parts, const Options& options)
      : parts_(parts), options_(options), contents_(parts.root) {}

  // INVALID_ARGUMENT lists everything wrong with the header; ALREADY_EXISTS if the upload id names
  // another file; RESOURCE_EXHAUSTED (reason STORAGE_FULL) if the disk is too small, or as
  // ProjectLimits; else as ContentStore::OpenWriter.
  absl::StatusOr<Begun> BeginUpload(const std::string& project, const v1::UploadHeader& header);
  absl::StatusOr<v1::Upload> GetUpload(const std::string& project, const std::string& upload_id);

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenContent(const internal::FileRecord& file);

 private:
  absl::Status CheckHeader(const v1::UploadHeader& header) const;
  absl::Status CheckDiskHolds(int64_t more_bytes) const;
  // The record of this upload, made if it is new.
  absl::StatusOr<internal::UploadRecord> FindOrNewUpload(const std::string& project,
                                                         const v1::UploadHeader& header);
  // Records an upload whose bytes may come, unless the project may not have so many.
  absl::Status Admit(internal::UploadRecord& upload) ABSL_LOCKS_EXCLUDED(admitting_);
  // Records the upload as of now.
  absl::Status Record(internal::UploadRecord& upload);
  // The file that this upload has become, or one with the same content and name.
  absl::StatusOr<std::optional<internal::FileRecord>> FindFinished(
      const internal::UploadRecord& upload);
  absl::StatusOr<v1::File> RecordFile(internal::UploadRecord upload);

  const Parts parts_;
  const Options options_;
  ContentStore contents_;
  // Held from the question whether an upload fits until it counts itself.
  absl::Mutex admitting_;
};

}  // namespace anneal
