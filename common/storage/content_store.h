#pragma once
// Files by content: written once under their SHA-256, in parts if need be.

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/sha256.h"
#include "common/storage/storage_root.h"

namespace anneal {

struct BlobSpec {
  int64_t size_bytes = 0;
  std::string sha256;
};

class ContentStore;

// One upload while it is being written. Guarded by its caller. Dropping it keeps what has come, to
// go on from later.
class BlobWriter {
 public:
  ~BlobWriter();
  BlobWriter(const BlobWriter&) = delete;
  BlobWriter& operator=(const BlobWriter&) = delete;

  int64_t received_bytes() const { return received_; }
  // OUT_OF_RANGE for a byte beyond the size that was announced; nothing of the chunk is kept then.
  absl::Status Append(absl::string_view chunk);
  // Publishes the blob; it is durable when this returns. OUT_OF_RANGE if bytes are missing (they
  // may still come), DATA_LOSS if the content has another hash (then all of it is thrown away).
  // Call once.
  absl::Status Commit();

 private:
  friend class ContentStore;
  BlobWriter(ContentStore& store, std::string upload, BlobSpec spec);

  ContentStore& store_;
  const std::string upload_;
  const BlobSpec spec_;
  std::unique_ptr<WritableFile> file_;
  Sha256 hash_;
  int64_t received_ = 0;
};

// Purpose: keeps blobs/ and the partial files in tmp/uploads/. How far an upload has come is the
// size of its partial file and nothing else, so there is no record that could disagree with it.
// Bytes that were written but not synced before a power loss may come back wrong; the hash at the
// end finds that. Owner: Coordinator. Thread-safe; one writer per upload at a time.
class ContentStore {
 public:
  // `root` must outlive it and all its writers.
  explicit ContentStore(StorageRoot& root) : root_(root) {}

  // `upload` names the upload: any text. Bytes that have come so far; 0 if none have.
  absl::StatusOr<int64_t> ReceivedBytes(absl::string_view upload);
  // Goes on from `offset`; what was there beyond it is written anew. Reads what is there once, for
  // the hash. OUT_OF_RANGE if `offset` is beyond what has come, ABORTED while another writer has
  // the upload.
  absl::StatusOr<std::unique_ptr<BlobWriter>> OpenWriter(absl::string_view upload,
                                                         const BlobSpec& spec, int64_t offset);
  // Throws the partial file away.
  absl::Status Discard(absl::string_view upload);

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenBlob(absl::string_view sha256);

 private:
  friend class BlobWriter;
  std::string PartialPath(absl::string_view upload) const;
  absl::Status HashPrefix(const std::string& path, int64_t bytes, Sha256& hash);
  void Release(const std::string& upload);

  StorageRoot& root_;
  absl::Mutex mu_;
  std::set<std::string> open_ ABSL_GUARDED_BY(mu_);
};

}  // namespace anneal
