#include "common/storage/content_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/storage/layout.h"

namespace anneal {
namespace {

constexpr absl::string_view kUploads = "tmp/uploads";
constexpr int64_t kReadBytes = 1 << 20;

}  // namespace

BlobWriter::BlobWriter(ContentStore& store, std::string upload, BlobSpec spec)
    : store_(store), upload_(std::move(upload)), spec_(std::move(spec)) {}

BlobWriter::~BlobWriter() {
  file_.reset();
  store_.Release(upload_);
}

absl::Status BlobWriter::Append(absl::string_view chunk) {
  const auto bytes = static_cast<int64_t>(chunk.size());
  if (bytes > spec_.size_bytes - received_) {
    return WithReason(
        absl::OutOfRangeError(absl::StrCat("the file was announced with ", spec_.size_bytes,
                                           " bytes, but ", received_ + bytes, " have come")),
        "UPLOAD_TOO_LONG");
  }
  ANNEAL_RETURN_IF_ERROR(file_->Append(chunk));
  hash_.Update(chunk);
  received_ += bytes;
  return absl::OkStatus();
}

absl::Status BlobWriter::Commit() {
  if (received_ < spec_.size_bytes) {
    return WithReason(absl::OutOfRangeError(absl::StrCat("the upload ended after ", received_,
                                                         " of ", spec_.size_bytes,
                                                         " bytes; go on from offset ", received_)),
                      "UPLOAD_INCOMPLETE");
  }
  const std::string digest = hash_.HexDigest();
  if (digest != spec_.sha256) {
    ANNEAL_RETURN_IF_ERROR(store_.root_.files().RemoveTree(store_.PartialPath(upload_)));
    return WithReason(
        absl::DataLossError(absl::StrCat("the content has SHA-256 ", digest, ", but ", spec_.sha256,
                                         " was announced; upload it again from the start")),
        "HASH_MISMATCH");
  }
  ANNEAL_RETURN_IF_ERROR(file_->Sync());
  return store_.root_.Publish(store_.PartialPath(upload_), BlobPath(spec_.sha256));
}

// Uploads are named by clients, so their names are hashed to be file names.
std::string ContentStore::PartialPath(absl::string_view upload) const {
  return root_.Absolute(absl::StrCat(kUploads, "/", Sha256Hex(upload)));
}

absl::StatusOr<int64_t> ContentStore::ReceivedBytes(absl::string_view upload) {
  const absl::StatusOr<FileInfo> info = root_.files().Stat(PartialPath(upload));
  if (absl::IsNotFound(info.status())) return 0;
  ANNEAL_RETURN_IF_ERROR(info.status());
  return info->size_bytes;
}

absl::StatusOr<std::unique_ptr<BlobWriter>> ContentStore::OpenWriter(absl::string_view upload,
                                                                     const BlobSpec& spec,
                                                                     int64_t offset) {
  std::unique_ptr<BlobWriter> writer;
  {
    absl::MutexLock lock(&mu_);
    if (!open_.insert(std::string(upload)).second) {
      return WithReason(
          absl::AbortedError("another stream is writing this upload; try again when it has ended"),
          "UPLOAD_BUSY");
    }
    writer.reset(new BlobWriter(*this, std::string(upload), spec));
  }
  ANNEAL_ASSIGN_OR_RETURN(const int64_t received, ReceivedBytes(upload));
  if (offset < 0 || offset > received) {
    return WithReason(
        absl::OutOfRangeError(absl::StrCat("offset ", offset, " is not within the ", received,
                                           " bytes that have come; go on from offset ", received)),
        "UPLOAD_OFFSET");
  }
  const std::string path = PartialPath(upload);
  ANNEAL_RETURN_IF_ERROR(root_.files().MakeFolders(root_.Absolute(kUploads)));
  ANNEAL_ASSIGN_OR_RETURN(writer->file_, root_.files().OpenForAppend(path, offset));
  ANNEAL_RETURN_IF_ERROR(HashPrefix(path, offset, writer->hash_));
  writer->received_ = offset;
  return writer;
}

absl::Status ContentStore::HashPrefix(const std::string& path, int64_t bytes, Sha256& hash) {
  if (bytes == 0) return absl::OkStatus();
  ANNEAL_ASSIGN_OR_RETURN(auto file, root_.files().OpenForRead(path));
  for (int64_t at = 0; at < bytes;) {
    ANNEAL_ASSIGN_OR_RETURN(const std::string part,
                            file->ReadAt(at, std::min(kReadBytes, bytes - at)));
    if (part.empty()) return absl::DataLossError(absl::StrCat(path, " is shorter than it was"));
    hash.Update(part);
    at += static_cast<int64_t>(part.size());
  }
  return absl::OkStatus();
}

void ContentStore::Release(const std::string& upload) {
  absl::MutexLock lock(&mu_);
  open_.erase(upload);
}

absl::Status ContentStore::Discard(absl::string_view upload) {
  return root_.files().RemoveTree(PartialPath(upload));
}

absl::StatusOr<std::unique_ptr<ReadableFile>> ContentStore::OpenBlob(absl::string_view sha256) {
  return root_.files().OpenForRead(root_.Absolute(BlobPath(sha256)));
}

}  // namespace anneal
