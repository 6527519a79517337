#include "coordinator/api/file_library.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/units.h"
#include "common/rpc/status.h"
#include "common/storage/layout.h"
#include "coordinator/lifecycle/proto_time.h"

namespace anneal {
namespace {

constexpr size_t kMaxDisplayNameBytes = 256;
constexpr size_t kMaxUploadIdBytes = 64;

bool IsUploadId(absl::string_view text) {
  constexpr absl::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
  return !text.empty() && text.size() <= kMaxUploadIdBytes &&
         text.find_first_not_of(kAllowed) == absl::string_view::npos;
}

bool IsDisplayName(absl::string_view text) {
  if (text.empty() || text.size() > kMaxDisplayNameBytes) return false;
  for (const char c : text) {
    if (c == '/' || absl::ascii_iscntrl(static_cast<unsigned char>(c))) return false;
  }
  return true;
}

// Upload ids are the project's own.
std::string ContentKey(const internal::UploadRecord& upload) {
  return absl::StrCat(upload.project(), "/", upload.upload_id());
}

}  // namespace

v1::File FileFrom(const internal::FileRecord& record) {
  v1::File file;
  file.set_name(absl::StrCat("files/", record.id()));
  file.set_display_name(record.display_name());
  file.set_size_bytes(record.size_bytes());
  file.set_sha256(record.sha256());
  *file.mutable_create_time() = record.create_time();
  return file;
}

absl::Status FileLibrary::CheckHeader(const v1::UploadHeader& header) const {
  std::vector<FieldViolation> violations;
  if (!IsDisplayName(header.display_name())) {
    violations.push_back(
        {"header.display_name", absl::StrCat("is not a file name of 1 to ", kMaxDisplayNameBytes,
                                             " bytes without '/' and control characters")});
  }
  if (header.size_bytes() < 0 || header.size_bytes() > options_.max_file_bytes) {
    violations.push_back({"header.size_bytes",
                          absl::StrCat(header.size_bytes(), " is not within 0 and the limit of ",
                                       FormatBytes(options_.max_file_bytes))});
  }
  if (!IsSha256(header.sha256())) {
    violations.push_back({"header.sha256", "is not 64 lower-case hexadecimal digits"});
  }
  if (!IsUploadId(header.upload_id())) {
    violations.push_back({"header.upload_id", absl::StrCat("is not 1 to ", kMaxUploadIdBytes,
                                                           " characters [a-zA-Z0-9_-]")});
  }
  return violations.empty() ? absl::OkStatus() : InvalidFields(violations);
}

absl::Status FileLibrary::CheckDiskHolds(int64_t more_bytes) const {
  ANNEAL_ASSIGN_OR_RETURN(const int64_t free, parts_.root.files().FreeBytes(parts_.root.path()));
  if (free - options_.min_free_bytes >= more_bytes) return absl::OkStatus();
  return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                        "the upload needs ", FormatBytes(more_bytes), " more, the storage has ",
                        FormatBytes(free), " free of which ", FormatBytes(options_.min_free_bytes),
                        " stay free; delete files or enlarge it")),
                    "STORAGE_FULL");
}

absl::StatusOr<internal::UploadRecord> FileLibrary::FindOrNewUpload(
    const std::string& project, const v1::UploadHeader& header) {
  absl::StatusOr<internal::UploadRecord> known =
      parts_.resources.GetUpload(project, header.upload_id());
  if (known.ok()) {
    if (known->sha256() == header.sha256() && known->size_bytes() == header.size_bytes() &&
        known->display_name() == header.display_name()) {
      return known;
    }
    return WithReason(
        absl::AlreadyExistsError(absl::StrCat(
            "upload id ", header.upload_id(), " names the upload of ", known->display_name(),
            " with SHA-256 ", known->sha256(), "; take a new id for another file")),
        "UPLOAD_ID_TAKEN");
  }
  if (!absl::IsNotFound(known.status())) return known.status();
  internal::UploadRecord upload;
  upload.set_upload_id(header.upload_id());
  upload.set_project(project);
  upload.set_display_name(header.display_name());
  upload.set_size_bytes(header.size_bytes());
  upload.set_sha256(header.sha256());
  return upload;
}

absl::Status FileLibrary::Record(internal::UploadRecord& upload) {
  *upload.mutable_create_time() = TimestampOf(parts_.clock.TimeNow());
  return parts_.resources.PutUpload(upload);
}

absl::Status FileLibrary::Admit(internal::UploadRecord& upload) {
  absl::MutexLock lock(&admitting_);
  // One that has become a file does not: that has been deleted, and the upload starts over.
  const bool counts_already = upload.has_create_time() && upload.file_id().empty() &&
                              TimeOf(upload.create_time()) >
                                  parts_.clock.TimeNow() - ProjectLimits::kUnfinishedUploadLifetime;
  if (counts_already) return absl::OkStatus();
  ANNEAL_RETURN_IF_ERROR(parts_.limits.AdmitUpload(upload.project(), upload.size_bytes()));
  upload.clear_file_id();
  return Record(upload);
}

absl::StatusOr<std::optional<internal::FileRecord>> FileLibrary::FindFinished(
    const internal::UploadRecord& upload) {
  if (!upload.file_id().empty()) {
    absl::StatusOr<internal::FileRecord> file =
        parts_.resources.GetFile(upload.project(), upload.file_id());
    if (file.ok()) return *std::move(file);
    // Deleted since: the upload starts over.
    if (!absl::IsNotFound(file.status())) return file.status();
  }
  return parts_.resources.FindFile(upload.project(), upload.sha256(), upload.display_name());
}

absl::StatusOr<FileLibrary::Begun> FileLibrary::BeginUpload(const std::string& project,
                                                            const v1::UploadHeader& header) {
  ANNEAL_RETURN_IF_ERROR(CheckHeader(header));
  ANNEAL_ASSIGN_OR_RETURN(internal::UploadRecord upload, FindOrNewUpload(project, header));
  ANNEAL_ASSIGN_OR_RETURN(const std::optional<internal::FileRecord> file, FindFinished(upload));
  Begun begun;
  if (file.has_value()) {
    if (upload.file_id() != file->id()) {
      upload.set_file_id(file->id());
      ANNEAL_RETURN_IF_ERROR(Record(upload));
    }
    begun.file = FileFrom(*file);
    return begun;
  }
  ANNEAL_RETURN_IF_ERROR(Admit(upload));
  ANNEAL_ASSIGN_OR_RETURN(
      std::unique_ptr<BlobWriter> writer,
      contents_.OpenWriter(ContentKey(upload), {upload.size_bytes(), upload.sha256()},
                           header.offset()));
  ANNEAL_RETURN_IF_ERROR(CheckDiskHolds(upload.size_bytes() - header.offset()));
  begun.upload.reset(new Upload(*this, std::move(upload), std::move(writer)));
  return begun;
}

absl::StatusOr<v1::File> FileLibrary::Upload::Finish() {
  absl::ReaderMutexLock publishing(&library_.parts_.root.publishing());
  ANNEAL_RETURN_IF_ERROR(writer_->Commit());
  return library_.RecordFile(record_);
}

absl::StatusOr<v1::File> FileLibrary::RecordFile(internal::UploadRecord upload) {
  // Another upload of the same file may have been quicker.
  ANNEAL_ASSIGN_OR_RETURN(std::optional<internal::FileRecord> file, FindFinished(upload));
  if (!file.has_value()) {
    file.emplace();
    const absl::Time now = parts_.clock.TimeNow();
    file->set_id(NewUlid(now, parts_.random));
    file->set_project(upload.project());
    file->set_display_name(upload.display_name());
    file->set_size_bytes(upload.size_bytes());
    file->set_sha256(upload.sha256());
    *file->mutable_create_time() = TimestampOf(now);
    ANNEAL_RETURN_IF_ERROR(parts_.resources.PutFile(*file));
  }
  upload.set_file_id(file->id());
  ANNEAL_RETURN_IF_ERROR(parts_.resources.PutUpload(upload));
  return FileFrom(*file);
}

absl::StatusOr<v1::Upload> FileLibrary::GetUpload(const std::string& project,
                                                  const std::string& upload_id) {
  ANNEAL_ASSIGN_OR_RETURN(const internal::UploadRecord record,
                          parts_.resources.GetUpload(project, upload_id));
  v1::Upload upload;
  upload.set_upload_id(record.upload_id());
  ANNEAL_ASSIGN_OR_RETURN(const std::optional<internal::FileRecord> file, FindFinished(record));
  if (file.has_value()) {
    upload.set_received_bytes(file->size_bytes());
    *upload.mutable_file() = FileFrom(*file);
    return upload;
  }
  ANNEAL_ASSIGN_OR_RETURN(const int64_t received, contents_.ReceivedBytes(ContentKey(record)));
  upload.set_received_bytes(received);
  return upload;
}

absl::StatusOr<std::unique_ptr<ReadableFile>> FileLibrary::OpenContent(
    const internal::FileRecord& file) {
  return contents_.OpenBlob(file.sha256());
}

}  // namespace anneal
