#include "coordinator/api/file_service.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/rpc/paging.h"
#include "common/rpc/server.h"
#include "common/rpc/status.h"
#include "common/storage/layout.h"
#include "coordinator/api/download_reactor.h"
#include "coordinator/api/pooled_call.h"
#include "coordinator/api/pumped_writer.h"

namespace anneal {
namespace {

constexpr absl::string_view kPrefix = "files/";

// The id in "files/{ulid}".
absl::StatusOr<std::string> FileIdOf(absl::string_view name) {
  absl::string_view id = name;
  if (absl::ConsumePrefix(&id, kPrefix) && IsUlid(id)) return std::string(id);
  return InvalidField("name", "is not files/{file}");
}

// One upload stream. gRPC holds a raw pointer from the start to OnDone; until then the call keeps
// itself alive.
class UploadReactor final : public grpc::ServerReadReactor<v1::UploadFileRequest>,
                            public TransferStream {
 public:
  static UploadReactor* Start(const FileServiceImpl::Parts& parts, absl::StatusOr<Caller> caller,
                              v1::File* response) {
    std::shared_ptr<UploadReactor> reactor(new UploadReactor(parts, response));
    UploadReactor* raw = reactor.get();
    raw->self_ = reactor;
    const absl::Status status = raw->Begin(std::move(caller));
    if (status.ok()) {
      parts.pool.Watch(std::move(reactor));
      raw->Read();
    } else {
      raw->Finish(ToGrpcStatus(status));
    }
    return raw;
  }

  void OnReadDone(bool ok) override {
    {
      absl::MutexLock lock(&mu_);
      if (!std::exchange(reading_, false)) return;  // ended as idle
    }
    parts_.pool.Post([this, ok] { Handle(ok); });
  }
  void EndIfIdle(absl::Duration since) override {
    absl::MutexLock lock(&mu_);
    if (!reading_ || reading_since_ >= since) return;
    reading_ = false;
    // No failure of ours, as a deadline would be.
    End(WithReason(absl::AbortedError(
                       "nothing has come of this upload for too long; what has come is kept: go "
                       "on where GetUpload says"),
                   "UPLOAD_IDLE"));
  }
  void OnDone() override {
    const std::shared_ptr<UploadReactor> self = std::move(self_);
    parts_.pool.Unwatch(this);
  }

 private:
  UploadReactor(const FileServiceImpl::Parts& parts, v1::File* response)
      : parts_(parts), response_(response) {}

  absl::Status Begin(absl::StatusOr<Caller> caller) {
    ANNEAL_ASSIGN_OR_RETURN(caller_, std::move(caller));
    project_ = caller_.project;
    ANNEAL_ASSIGN_OR_RETURN(place_, parts_.limits.OpenStream(project_));
    ANNEAL_ASSIGN_OR_RETURN(lease_, parts_.pool.Acquire(project_));
    return absl::OkStatus();
  }

  void Handle(bool ok) {
    absl::Status status = parts_.authenticator.Recheck(caller_);
    if (status.ok()) status = ok ? Take(request_) : Complete();
    if (ok && status.ok() && !answered_) return Read();
    End(status);
  }

  void Read() {
    {
      absl::MutexLock lock(&mu_);
      reading_ = true;
      reading_since_ = parts_.pool.clock().MonotonicNow();
    }
    StartRead(&request_);
  }

  void End(const absl::Status& status) {
    // A client that hears of the end may come again at once; it must not find its own old stream in
    // the way.
    upload_.reset();
    lease_ = TransferPool::Lease();
    place_ = ProjectLimits::Stream();
    Finish(ToGrpcStatus(status));
  }

  absl::Status Take(const v1::UploadFileRequest& request) {
    if (request.has_header()) {
      if (upload_ != nullptr) return InvalidField("header", "comes once, first");
      ANNEAL_ASSIGN_OR_RETURN(FileLibrary::Begun begun,
                              parts_.library.BeginUpload(project_, request.header()));
      upload_ = std::move(begun.upload);
      if (begun.file.has_value()) {
        *response_ = *std::move(begun.file);
        answered_ = true;
      }
      return absl::OkStatus();
    }
    if (upload_ == nullptr) return InvalidField("header", "must come first");
    if (request.chunk().size() > static_cast<size_t>(kMaxChunkBytes)) {
      return InvalidField("chunk", absl::StrCat("has ", request.chunk().size(), " bytes; at most ",
                                                kMaxChunkBytes));
    }
    return upload_->Append(request.chunk());
  }

  // The client has sent all it will.
  absl::Status Complete() {
    if (upload_ == nullptr) return InvalidField("header", "must come first");
    ANNEAL_ASSIGN_OR_RETURN(*response_, upload_->Finish());
    return absl::OkStatus();
  }

  const FileServiceImpl::Parts& parts_;  // the service's own
  v1::File* const response_;
  // Written before the first callback and in OnDone, the last.
  std::shared_ptr<UploadReactor> self_;
  Caller caller_;
  std::string project_;
  ProjectLimits::Stream place_;
  TransferPool::Lease lease_;
  v1::UploadFileRequest request_;
  std::unique_ptr<FileLibrary::Upload> upload_;
  // The file was there already; nothing more need be sent.
  bool answered_ = false;

  absl::Mutex mu_;
  // Waiting for the client: nobody else touches the stream meanwhile.
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration reading_since_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

grpc::ServerReadReactor<v1::UploadFileRequest>* FileServiceImpl::UploadFile(
    grpc::CallbackServerContext* context, v1::File* response) {
  return UploadReactor::Start(parts_, parts_.authenticator.CallerOf(*context, Right::kWrite),
                              response);
}

grpc::ServerUnaryReactor* FileServiceImpl::GetUpload(grpc::CallbackServerContext* context,
                                                     const v1::GetUploadRequest* request,
                                                     v1::Upload* response) {
  return AnswerOnPool(parts_.pool, parts_.authenticator, Right::kRead, *context,
                      [=, this](const Caller& caller) -> absl::Status {
                        ANNEAL_ASSIGN_OR_RETURN(
                            *response,
                            parts_.library.GetUpload(caller.project, request->upload_id()));
                        return absl::OkStatus();
                      });
}

grpc::ServerUnaryReactor* FileServiceImpl::GetFile(grpc::CallbackServerContext* context,
                                                   const v1::GetFileRequest* request,
                                                   v1::File* response) {
  return AnswerOnPool(parts_.pool, parts_.authenticator, Right::kRead, *context,
                      [=, this](const Caller& caller) -> absl::Status {
                        ANNEAL_ASSIGN_OR_RETURN(const std::string id, FileIdOf(request->name()));
                        ANNEAL_ASSIGN_OR_RETURN(const internal::FileRecord record,
                                                parts_.resources.GetFile(caller.project, id));
                        *response = FileFrom(record);
                        return absl::OkStatus();
                      });
}

grpc::ServerUnaryReactor* FileServiceImpl::ListFiles(grpc::CallbackServerContext* context,
                                                     const v1::ListFilesRequest* request,
                                                     v1::ListFilesResponse* response) {
  return AnswerOnPool(
      parts_.pool, parts_.authenticator, Right::kRead, *context,
      [=, this](const Caller& caller) -> absl::Status {
        if (!request->sha256().empty() && !IsSha256(request->sha256())) {
          return InvalidField("sha256", "is not 64 lower-case hexadecimal digits");
        }
        const std::string filter = absl::StrCat("files/", caller.project, "/", request->sha256());
        ANNEAL_ASSIGN_OR_RETURN(
            const PageRequest page,
            ParsePageRequest(request->page_size(), request->page_token(), filter));
        // One more than is shown tells whether there is another page.
        ANNEAL_ASSIGN_OR_RETURN(std::vector<internal::FileRecord> records,
                                parts_.resources.ListFiles(caller.project, page.after_id,
                                                           page.size + 1, request->sha256()));
        if (records.size() > static_cast<size_t>(page.size)) {
          records.pop_back();
          response->set_next_page_token(MakePageToken(records.back().id(), filter));
        }
        for (const internal::FileRecord& record : records)
          *response->add_files() = FileFrom(record);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* FileServiceImpl::DeleteFile(grpc::CallbackServerContext* context,
                                                      const v1::DeleteFileRequest* request,
                                                      google::protobuf::Empty*) {
  return AnswerOnPool(parts_.pool, parts_.authenticator, Right::kWrite, *context,
                      [=, this](const Caller& caller) -> absl::Status {
                        ANNEAL_ASSIGN_OR_RETURN(const std::string id, FileIdOf(request->name()));
                        // The content stays: other files, also of other projects, may have the
                        // same.
                        return parts_.resources.DeleteFile(caller.project, id);
                      });
}

grpc::ServerWriteReactor<v1::DownloadFileResponse>* FileServiceImpl::DownloadFile(
    grpc::CallbackServerContext* context, const v1::DownloadFileRequest* request) {
  const absl::StatusOr<Caller> caller = parts_.authenticator.CallerOf(*context, Right::kRead);
  if (!caller.ok()) return new RefusedWriter<v1::DownloadFileResponse>(caller.status());
  return DownloadReactor<v1::DownloadFileResponse>::Start(
      parts_.pool, *context, caller->project, request->offset(),
      [this, caller, name = request->name()]() -> absl::StatusOr<DownloadSource> {
        ANNEAL_ASSIGN_OR_RETURN(const std::string id, FileIdOf(name));
        ANNEAL_ASSIGN_OR_RETURN(const internal::FileRecord record,
                                parts_.resources.GetFile(caller->project, id));
        ANNEAL_ASSIGN_OR_RETURN(ProjectLimits::Stream place,
                                parts_.limits.OpenStream(caller->project));
        ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file,
                                parts_.library.OpenContent(record));
        return DownloadSource{std::move(file), record.size_bytes(), std::move(place),
                              [this, caller] { return parts_.authenticator.Recheck(*caller); }};
      });
}

}  // namespace anneal
