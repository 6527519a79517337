#pragma once
// Sends a file as a stream of chunks.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/rpc/server.h"
#include "common/rpc/status.h"
#include "common/storage/file_system.h"
#include "coordinator/api/project_limits.h"
#include "coordinator/api/transfer_pool.h"
#include "grpcpp/support/server_callback.h"

namespace anneal {

struct DownloadSource {
  std::unique_ptr<ReadableFile> file;
  int64_t size_bytes = 0;
  // The project's right to this stream.
  ProjectLimits::Stream place;
  // Asked before each chunk; an error ends the download.
  std::function<absl::Status()> may_go_on;
};

// One download. `Response` has `offset` and `data`. A chunk is read, on the pool, when gRPC has
// taken the one before, so a slow reader costs one chunk of memory and no thread; one that reads
// nothing for the pool's idle timeout is cancelled. gRPC holds a raw pointer from the start to
// OnDone; until then the call keeps itself alive.
template <typename Response>
class DownloadReactor final : public grpc::ServerWriteReactor<Response>, public TransferStream {
 public:
  // `open` runs on the pool, for a caller of `project` who is known already, and finds the file. An
  // offset beyond its end is OUT_OF_RANGE.
  static DownloadReactor* Start(TransferPool& pool, grpc::CallbackServerContext& context,
                                const std::string& project, int64_t offset,
                                std::function<absl::StatusOr<DownloadSource>()> open) {
    std::shared_ptr<DownloadReactor> reactor(new DownloadReactor(pool, context, offset));
    DownloadReactor* raw = reactor.get();
    raw->self_ = reactor;
    pool.Watch(std::move(reactor));
    pool.Post(
        [raw, project, open = std::move(open)] { raw->EndIfNotOk(raw->Begin(project, open)); });
    return raw;
  }

  void OnWriteDone(bool ok) override {
    SetWriting(false);
    if (!ok) return End(absl::CancelledError("the client has left, or has not read for too long"));
    pool_.Post([this] { EndIfNotOk(SendNext()); });
  }
  void EndIfIdle(absl::Duration since) override {
    absl::MutexLock lock(&mu_);
    // A status would have to wait for the chunk that is not read.
    if (!done_ && writing_ && writing_since_ < since) context_.TryCancel();
  }
  void OnDone() override {
    const std::shared_ptr<DownloadReactor> self = std::move(self_);
    {
      absl::MutexLock lock(&mu_);
      done_ = true;
    }
    pool_.Unwatch(this);
  }

 private:
  DownloadReactor(TransferPool& pool, grpc::CallbackServerContext& context, int64_t offset)
      : pool_(pool), context_(context), offset_(offset) {}

  absl::Status Begin(const std::string& project,
                     const std::function<absl::StatusOr<DownloadSource>()>& open) {
    ANNEAL_ASSIGN_OR_RETURN(lease_, pool_.Acquire(project));
    ANNEAL_ASSIGN_OR_RETURN(source_, open());
    if (offset_ < 0 || offset_ > source_.size_bytes) {
      return absl::OutOfRangeError(absl::StrCat("offset ", offset_, " is not within the file's ",
                                                source_.size_bytes, " bytes"));
    }
    return SendNext();
  }

  absl::Status SendNext() {
    ANNEAL_RETURN_IF_ERROR(source_.may_go_on());
    if (offset_ == source_.size_bytes) {
      End(absl::OkStatus());
      return absl::OkStatus();
    }
    const int64_t wanted = std::min<int64_t>(kMaxChunkBytes, source_.size_bytes - offset_);
    ANNEAL_ASSIGN_OR_RETURN(*response_.mutable_data(), source_.file->ReadAt(offset_, wanted));
    const auto bytes = static_cast<int64_t>(response_.data().size());
    if (bytes != wanted)
      return absl::DataLossError(absl::StrCat("the file ends at ", offset_ + bytes, ", too early"));
    response_.set_offset(offset_);
    offset_ += bytes;
    SetWriting(true);
    this->StartWrite(&response_);
    return absl::OkStatus();
  }

  void EndIfNotOk(const absl::Status& status) {
    if (!status.ok()) End(status);
  }
  // The client may come again as soon as it hears of the end, so its place goes first. The reactor
  // may be gone afterwards.
  void End(const absl::Status& status) {
    source_ = DownloadSource();
    lease_ = TransferPool::Lease();
    this->Finish(ToGrpcStatus(status));
  }

  void SetWriting(bool writing) {
    absl::MutexLock lock(&mu_);
    writing_ = writing;
    writing_since_ = pool_.clock().MonotonicNow();
  }

  TransferPool& pool_;
  grpc::CallbackServerContext& context_;
  // Written before the first callback and in OnDone, the last.
  std::shared_ptr<DownloadReactor> self_;
  int64_t offset_;
  TransferPool::Lease lease_;
  DownloadSource source_;
  Response response_;
  absl::Mutex mu_;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration writing_since_ ABSL_GUARDED_BY(mu_);
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace anneal
