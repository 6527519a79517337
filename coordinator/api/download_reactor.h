#pragma once
// Sends a file as a stream of chunks.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
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
};

// One download. `Response` has `offset` and `data`. A chunk is read, on the pool, when gRPC has
// taken the one before, so a slow reader costs one chunk of memory and no thread. Deletes itself
// when the call is over.
template <typename Response>
class DownloadReactor final : public grpc::ServerWriteReactor<Response> {
 public:
  // `open` runs on the pool, for a caller who is known already, and finds the file. An offset
  // beyond its end is OUT_OF_RANGE.
  static DownloadReactor* Start(TransferPool& pool, int64_t offset,
                                std::function<absl::StatusOr<DownloadSource>()> open) {
    auto* reactor = new DownloadReactor(pool, offset);
    pool.Post([reactor, open = std::move(open)] { reactor->EndIfNotOk(reactor->Begin(open)); });
    return reactor;
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the client has left"));
    pool_.Post([this] { EndIfNotOk(SendNext()); });
  }
  void OnDone() override { delete this; }

 private:
  DownloadReactor(TransferPool& pool, int64_t offset) : pool_(pool), offset_(offset) {}

  absl::Status Begin(const std::function<absl::StatusOr<DownloadSource>()>& open) {
    ANNEAL_ASSIGN_OR_RETURN(lease_, pool_.Acquire());
    ANNEAL_ASSIGN_OR_RETURN(source_, open());
    if (offset_ < 0 || offset_ > source_.size_bytes) {
      return absl::OutOfRangeError(absl::StrCat("offset ", offset_, " is not within the file's ",
                                                source_.size_bytes, " bytes"));
    }
    return SendNext();
  }

  absl::Status SendNext() {
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

  TransferPool& pool_;
  int64_t offset_;
  TransferPool::Lease lease_;
  DownloadSource source_;
  Response response_;
};

}  // namespace anneal
