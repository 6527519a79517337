#include "tools/anneal/upload.h"

#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/rpc/retry.h"
#include "common/rpc/server.h"
#include "tools/anneal/text.h"

namespace anneal::cli {
namespace {

namespace fs = std::filesystem;

constexpr BackoffPolicy kResume{.first_bound = absl::Milliseconds(200),
                                .max_bound = absl::Seconds(5)};
constexpr absl::Duration kResumeBudget = absl::Minutes(2);
constexpr absl::Duration kRedrawInterval = absl::Milliseconds(100);

// One file on its way.
class Uploader {
 public:
  Uploader(Client& client, const std::string& path, std::ostream& progress, int terminal_width,
           Clock& clock)
      : client_(client),
        path_(path),
        progress_(progress),
        terminal_width_(terminal_width),
        clock_(clock) {}

  absl::StatusOr<v1::File> Run(Random& random) {
    ANNEAL_RETURN_IF_ERROR(ReadHeader());
    ANNEAL_ASSIGN_OR_RETURN(const bool known, FindOnServer());
    if (known) return file_;
    const absl::Status status =
        RetryCall(kResume, kResumeBudget, clock_, random,
                  [this]() -> absl::Status { return SendFromWhereItStopped(); });
    if (terminal_width_ > 0) progress_ << "\r\x1b[K" << std::flush;
    if (!status.ok()) return Annotate(status, absl::StrCat("uploading ", path_));
    return file_;
  }

 private:
  absl::Status ReadHeader() {
    std::error_code error;
    if (!fs::is_regular_file(path_, error))
      return absl::NotFoundError(absl::StrCat(path_, " is not a file"));
    const auto size = static_cast<int64_t>(fs::file_size(path_, error));
    if (error) return absl::NotFoundError(absl::StrCat(path_, ": ", error.message()));
    ANNEAL_ASSIGN_OR_RETURN(const std::string sha256, Sha256OfFile(path_));
    header_.set_display_name(fs::path(path_).filename().string());
    header_.set_size_bytes(size);
    header_.set_sha256(sha256);
    // The same file is the same upload, also for another run of this command.
    header_.set_upload_id(Sha256Hex(absl::StrCat(sha256, "/", header_.display_name())));
    return absl::OkStatus();
  }

  absl::StatusOr<bool> FindOnServer() {
    v1::ListFilesRequest request;
    request.set_sha256(header_.sha256());
    ANNEAL_ASSIGN_OR_RETURN(const v1::ListFilesResponse response,
                            client_.Call(&v1::FileService::StubInterface::ListFiles, request));
    for (const v1::File& file : response.files()) {
      if (file.display_name() != header_.display_name()) continue;
      file_ = file;
      return true;
    }
    return false;
  }

  absl::Status SendFromWhereItStopped() {
    v1::GetUploadRequest request;
    request.set_upload_id(header_.upload_id());
    const absl::StatusOr<v1::Upload> upload =
        client_.Call(&v1::FileService::StubInterface::GetUpload, request);
    if (!upload.ok() && !absl::IsNotFound(upload.status())) return upload.status();
    header_.set_offset(upload.ok() ? upload->received_bytes() : 0);
    if (upload.ok() && upload->has_file()) {
      file_ = upload->file();
      return absl::OkStatus();
    }
    return Send();
  }

  absl::Status Send() {
    std::ifstream in(path_, std::ios::binary);
    in.seekg(header_.offset());
    grpc::ClientContext context;
    client_.Prepare(context);
    const auto stream = client_.files().UploadFile(&context, &file_);
    v1::UploadFileRequest request;
    *request.mutable_header() = header_;
    bool writing = stream->Write(request);
    int64_t sent = header_.offset();
    std::string chunk;
    while (writing && sent < header_.size_bytes()) {
      chunk.resize(
          static_cast<size_t>(std::min<int64_t>(kMaxChunkBytes, header_.size_bytes() - sent)));
      if (!in.read(chunk.data(), static_cast<std::streamsize>(chunk.size()))) {
        context.TryCancel();
        stream->Finish().ok();
        return absl::FailedPreconditionError(
            absl::StrCat(path_, " became shorter while it was read"));
      }
      request.set_chunk(chunk);
      writing = stream->Write(request);
      sent += static_cast<int64_t>(chunk.size());
      ShowProgress(sent);
    }
    stream->WritesDone();
    return client_.ToStatus(stream->Finish());
  }

  void ShowProgress(int64_t sent) {
    const absl::Duration now = clock_.MonotonicNow();
    if (terminal_width_ == 0 || now - last_redraw_ < kRedrawInterval) return;
    last_redraw_ = now;
    const std::string text =
        absl::StrCat("uploading ", Printable(header_.display_name()), "  ", FormatBytes(sent),
                     " of ", FormatBytes(header_.size_bytes()));
    progress_ << "\r\x1b[K" << text << std::flush;
  }

  Client& client_;
  const std::string path_;
  std::ostream& progress_;
  const int terminal_width_;
  Clock& clock_;
  v1::UploadHeader header_;
  v1::File file_;
  absl::Duration last_redraw_ = -absl::InfiniteDuration();
};

}  // namespace

absl::StatusOr<v1::File> UploadOnce(Client& client, const std::string& path, std::ostream& progress,
                                    int terminal_width, Clock& clock, Random& random) {
  return Uploader(client, path, progress, terminal_width, clock).Run(random);
}

}  // namespace anneal::cli
