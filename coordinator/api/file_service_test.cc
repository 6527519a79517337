#include "coordinator/api/file_service.h"

#include <map>
#include <set>

#include "common/base/sha256.h"
#include "common/base/status.h"
#include "coordinator/api/testing/api_fixture.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::anneal::testing::IsOkAndHolds;
using ::anneal::testing::kEveKey;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;

using Stub = v1::FileService::StubInterface;

class FileServiceTest : public testing::ApiFixture {
 protected:
  FileServiceTest() {
    Serve(service_);
    stub_ = v1::FileService::NewStub(channel_);
  }
  // The library and service die before the server that uses them, but for this.
  ~FileServiceTest() override { server_.reset(); }

  static v1::UploadHeader HeaderFor(const std::string& content, const std::string& upload_id) {
    v1::UploadHeader header;
    header.set_display_name("train.jsonl");
    header.set_size_bytes(static_cast<int64_t>(content.size()));
    header.set_sha256(Sha256Hex(content));
    header.set_upload_id(upload_id);
    return header;
  }

  // Sends the header, then `content` from the header's offset up to `end`, in chunks.
  absl::StatusOr<v1::File> Upload(const v1::UploadHeader& header, const std::string& content,
                                  size_t chunk_bytes = 1000, size_t end = std::string::npos,
                                  const char* key = testing::kAdaKey) {
    std::vector<v1::UploadFileRequest> requests(1);
    *requests[0].mutable_header() = header;
    for (size_t at = static_cast<size_t>(header.offset()); at < std::min(end, content.size());
         at += chunk_bytes) {
      requests.emplace_back().set_chunk(
          content.substr(at, std::min(chunk_bytes, std::min(end, content.size()) - at)));
    }
    return Send(requests, key);
  }
  absl::StatusOr<v1::File> Send(const std::vector<v1::UploadFileRequest>& requests,
                                const char* key = testing::kAdaKey) {
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(30));
    v1::File file;
    auto stream = stub_->UploadFile(&context, &file);
    for (const v1::UploadFileRequest& request : requests) {
      if (!stream->Write(request)) break;
    }
    stream->WritesDone();
    ANNEAL_RETURN_IF_ERROR(FromGrpcStatus(stream->Finish()));
    return file;
  }
  absl::StatusOr<v1::Upload> GetUpload(const std::string& upload_id,
                                       const char* key = testing::kAdaKey) {
    v1::GetUploadRequest request;
    request.set_upload_id(upload_id);
    return Call(*stub_, &Stub_::GetUpload, request, key);
  }
  absl::StatusOr<std::string> DownloadFile(const std::string& name, int64_t offset = 0,
                                           const char* key = testing::kAdaKey) {
    v1::DownloadFileRequest request;
    request.set_name(name);
    request.set_offset(offset);
    return Download<v1::DownloadFileResponse>(
        offset, [&](grpc::ClientContext* context) { return stub_->DownloadFile(context, request); },
        key);
  }
  absl::StatusOr<v1::ListFilesResponse> List(int size, const std::string& token,
                                             const std::string& sha256 = "",
                                             const char* key = testing::kAdaKey) {
    v1::ListFilesRequest request;
    request.set_page_size(size);
    request.set_page_token(token);
    request.set_sha256(sha256);
    return Call(*stub_, &Stub_::ListFiles, request, key);
  }
  absl::Status Delete(const std::string& name, const char* key = testing::kAdaKey) {
    v1::DeleteFileRequest request;
    request.set_name(name);
    return Call(*stub_, &Stub_::DeleteFile, request, key).status();
  }

  using Stub_ = v1::FileService::Stub;
  FileLibrary library_{{*resources_, *limits_, *root_, clock_, random_},
                       {.max_file_bytes = 64 << 20}};
  FileServiceImpl service_{{authenticator_, *limits_, *resources_, library_, pool_}};
  std::unique_ptr<v1::FileService::Stub> stub_;
};

TEST_F(FileServiceTest, GoesInAndComesOutUnchanged) {
  std::string content(3'500'000, 'x');
  for (size_t i = 0; i < content.size(); i += 7) content[i] = static_cast<char>(i);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File file,
                              Upload(HeaderFor(content, "u1"), content, kMaxChunkBytes));
  EXPECT_EQ(file.size_bytes(), 3'500'000);
  EXPECT_EQ(file.sha256(), Sha256Hex(content));
  EXPECT_EQ(file.display_name(), "train.jsonl");
  EXPECT_TRUE(file.has_create_time());
  EXPECT_THAT(DownloadFile(file.name()), IsOkAndHolds(content));
  EXPECT_THAT(DownloadFile(file.name(), 3'000'000), IsOkAndHolds(content.substr(3'000'000)));
  EXPECT_THAT(DownloadFile(file.name(), 3'500'000), IsOkAndHolds(""));
  EXPECT_THAT(DownloadFile(file.name(), 3'500'001), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(DownloadFile(file.name(), -1), StatusIs(absl::StatusCode::kOutOfRange));
}

TEST_F(FileServiceTest, GoesOnWhereItStopped) {
  const std::string content(10'000, 'y');
  v1::UploadHeader header = HeaderFor(content, "u1");
  const absl::Status cut = Upload(header, content, 1000, 3000).status();
  EXPECT_THAT(cut, StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("offset 3000")));
  EXPECT_EQ(ReasonOf(cut), "UPLOAD_INCOMPLETE");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Upload upload, GetUpload("u1"));
  EXPECT_EQ(upload.received_bytes(), 3000);
  EXPECT_FALSE(upload.has_file());
  header.set_offset(3001);
  EXPECT_THAT(Upload(header, content), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("3000")));
  header.set_offset(3000);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File file, Upload(header, content));
  EXPECT_THAT(DownloadFile(file.name()), IsOkAndHolds(content));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Upload done, GetUpload("u1"));
  EXPECT_EQ(done.received_bytes(), 10'000);
  EXPECT_EQ(done.file().name(), file.name());
}

TEST_F(FileServiceTest, TheSameFileIsOneFile) {
  const std::string content = "{}\n";
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File first, Upload(HeaderFor(content, "u1"), content));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File again, Upload(HeaderFor(content, "u1"), content));
  EXPECT_EQ(again.name(), first.name());
  // The header alone is enough.
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File other_id,
                              Upload(HeaderFor(content, "u2"), content, 1000, 0));
  EXPECT_EQ(other_id.name(), first.name());
  // Another project has its own, and must send the content to get it.
  EXPECT_THAT(Upload(HeaderFor(content, "u1"), content, 1000, 0, kEveKey),
              StatusIs(absl::StatusCode::kOutOfRange));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File eves,
                              Upload(HeaderFor(content, "u1"), content, 1000, 9, kEveKey));
  EXPECT_NE(eves.name(), first.name());
  EXPECT_THAT(List(0, "")->files(), SizeIs(1));
}

TEST_F(FileServiceTest, AnUploadIdNamesOneFile) {
  ANNEAL_ASSERT_OK(Upload(HeaderFor("a", "u1"), "a"));
  const absl::Status taken = Upload(HeaderFor("b", "u1"), "b").status();
  EXPECT_THAT(taken, StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("u1")));
  EXPECT_EQ(ReasonOf(taken), "UPLOAD_ID_TAKEN");
}

TEST_F(FileServiceTest, AfterDeletionTheSameUploadMakesItAnew) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File first, Upload(HeaderFor("abc", "u1"), "abc"));
  ANNEAL_ASSERT_OK(Delete(first.name()));
  EXPECT_THAT(Delete(first.name()), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(DownloadFile(first.name()), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(GetUpload("u1")->received_bytes(), 0);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File second, Upload(HeaderFor("abc", "u1"), "abc"));
  EXPECT_NE(second.name(), first.name());
}

TEST_F(FileServiceTest, RefusesWrongContent) {
  v1::UploadHeader header = HeaderFor("right", "u1");
  EXPECT_THAT(Upload(header, "wrong"), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("SHA-256")));
  EXPECT_EQ(GetUpload("u1")->received_bytes(), 0);
  EXPECT_THAT(Upload(header, "rightful"),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("announced with 5")));
  ANNEAL_EXPECT_OK(Upload(header, "right"));
}

TEST_F(FileServiceTest, RefusesBadStreams) {
  const auto kBad = absl::StatusCode::kInvalidArgument;
  v1::UploadFileRequest header, chunk, huge, empty;
  const std::string content(kMaxChunkBytes + 1, 'x');
  *header.mutable_header() = HeaderFor(content, "u1");
  chunk.set_chunk("x");
  huge.set_chunk(content);
  EXPECT_THAT(Send({}), StatusIs(kBad, HasSubstr("header")));
  EXPECT_THAT(Send({chunk}), StatusIs(kBad, HasSubstr("header: must come first")));
  EXPECT_THAT(Send({empty}), StatusIs(kBad, HasSubstr("header: must come first")));
  EXPECT_THAT(Send({header, header}), StatusIs(kBad, HasSubstr("once")));
  EXPECT_THAT(Send({header, huge}), StatusIs(kBad, HasSubstr("1048577")));
}

TEST_F(FileServiceTest, ListsEverythingWrongWithAHeader) {
  v1::UploadHeader header;
  header.set_display_name("../x");
  header.set_size_bytes(-1);
  header.set_sha256("ABC");
  header.set_upload_id("a/b");
  const absl::Status status = Upload(header, "").status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(FieldViolationsOf(status), SizeIs(4));
  header = HeaderFor("x", "u");
  header.set_size_bytes(int64_t{65} << 20);
  EXPECT_THAT(Upload(header, "x"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("64.0 MiB")));
}

TEST_F(FileServiceTest, KeepsTheDiskFromFilling) {
  files_.SetFreeBytes((int64_t{1} << 30) + 99);
  const std::string content(100, 'x');
  const absl::Status full = Upload(HeaderFor(content, "u1"), content).status();
  EXPECT_THAT(full, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(ReasonOf(full), "STORAGE_FULL");
  files_.SetFreeBytes((int64_t{1} << 30) + 100);
  ANNEAL_EXPECT_OK(Upload(HeaderFor(content, "u1"), content));
}

TEST_F(FileServiceTest, OtherProjectsSeeNothing) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File file, Upload(HeaderFor("abc", "u1"), "abc"));
  const auto kNone = absl::StatusCode::kNotFound;
  v1::GetFileRequest get;
  get.set_name(file.name());
  ANNEAL_EXPECT_OK(Call(*stub_, &Stub_::GetFile, get));
  EXPECT_THAT(Call(*stub_, &Stub_::GetFile, get, kEveKey), StatusIs(kNone));
  EXPECT_THAT(DownloadFile(file.name(), 0, kEveKey), StatusIs(kNone));
  EXPECT_THAT(Delete(file.name(), kEveKey), StatusIs(kNone));
  EXPECT_THAT(GetUpload("u1", kEveKey), StatusIs(kNone));
  EXPECT_THAT(List(0, "", "", kEveKey)->files(), SizeIs(0));
  EXPECT_THAT(DownloadFile(file.name(), 0, "no-such-key-0123456789"),
              StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(Upload(HeaderFor("abc", "u9"), "abc", 9, 9, ""),
              StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(FileServiceTest, NamesAreCheckedBeforeTheyAreUsed) {
  for (const char* name :
       {"", "files/", "files/../../etc/passwd", "files/01hf7yat00", "/etc/passwd", "models/x"}) {
    EXPECT_THAT(DownloadFile(name), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("name")))
        << name;
    EXPECT_THAT(Delete(name), StatusIs(absl::StatusCode::kInvalidArgument)) << name;
  }
  EXPECT_THAT(DownloadFile("files/01hf7yat000000000000000000"),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(FileServiceTest, ListsInPagesNewestFirst) {
  for (int i = 0; i < 5; ++i) {
    const std::string content = std::to_string(i);
    ANNEAL_ASSERT_OK(Upload(HeaderFor(content, "u" + content), content));
  }
  std::set<std::string> seen;
  std::string token, last = "files/~";
  int pages = 0;
  do {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListFilesResponse page, List(2, token));
    for (const v1::File& file : page.files()) EXPECT_TRUE(seen.insert(file.name()).second);
    token = page.next_page_token();
    ++pages;
  } while (!token.empty());
  EXPECT_THAT(seen, SizeIs(5));
  EXPECT_EQ(pages, 3);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::ListFilesResponse found, List(0, "", Sha256Hex("3")));
  EXPECT_THAT(found.files(), SizeIs(1));
  EXPECT_THAT(List(2, List(2, "")->next_page_token(), Sha256Hex("3")),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(List(2, "", "xyz"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sha256")));
}

TEST_F(FileServiceTest, StreamsOverTheBudgetAreToldToComeBack) {
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientWriter<v1::UploadFileRequest>>> streams;
  v1::File file;
  v1::UploadFileRequest header, chunk;
  chunk.set_chunk("x");
  for (const char* id : {"u1", "u2"}) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    PrepareCall(*contexts.back(), testing::kAdaKey, absl::Seconds(30));
    streams.push_back(stub_->UploadFile(contexts.back().get(), &file));
    *header.mutable_header() = HeaderFor(std::string(id) + "xx", id);
    ASSERT_TRUE(streams.back()->Write(header));
    ASSERT_TRUE(streams.back()->Write(chunk));
    // Once its first byte has come, the stream is open for sure.
    while (true) {
      const absl::StatusOr<v1::Upload> upload = GetUpload(id);
      if (upload.ok() && upload->received_bytes() == 1) break;
    }
  }
  const absl::Status third = Upload(HeaderFor("c", "u3"), "c").status();
  EXPECT_THAT(third, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(ReasonOf(third), "PROJECT_TRANSFERS");
  EXPECT_EQ(RetryDelayOf(third), absl::Seconds(1));
  // The other project finds the place that is left; then there is none for anybody.
  EXPECT_THAT(Upload(HeaderFor("d", "u4"), "d", 1000, std::string::npos, testing::kEveKey), IsOk());
  ANNEAL_ASSERT_OK_AND_ASSIGN(const TransferPool::Lease last, pool_.Acquire("third"));
  const absl::Status none =
      Upload(HeaderFor("e", "u5"), "e", 1000, std::string::npos, testing::kEveKey).status();
  EXPECT_EQ(ReasonOf(none), "TOO_MANY_TRANSFERS");
  EXPECT_EQ(RetryDelayOf(none), absl::Seconds(1));
  // Who is not known hears that, and has taken nobody's place.
  EXPECT_THAT(DownloadFile("files/x", 0, "no-such-key-0123456789"),
              StatusIs(absl::StatusCode::kUnauthenticated));
  // Its upload is busy for others until the stream ends, and what came stays.
  EXPECT_EQ(GetUpload("u1")->received_bytes(), 1);
  streams.front()->WritesDone();
  EXPECT_THAT(FromGrpcStatus(streams.front()->Finish()), StatusIs(absl::StatusCode::kOutOfRange));
  contexts.back()->TryCancel();
  EXPECT_THAT(FromGrpcStatus(streams.back()->Finish()), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(GetUpload("u1")->received_bytes(), 1);
}

// Clients that do nothing lose their places soon.
class IdleTransferTest : public FileServiceTest {
 protected:
  void SetUp() override {
    Serve(impatient_service_);
    stub_ = v1::FileService::NewStub(channel_);
  }
  ~IdleTransferTest() override { server_.reset(); }
  TransferPool impatient_{
      {.threads = 1, .max_streams = 1, .idle_timeout = absl::Milliseconds(200)}};
  FileServiceImpl impatient_service_{{authenticator_, *limits_, *resources_, library_, impatient_}};
};

TEST_F(IdleTransferTest, AnUploadThatSendsNothingEndsAndKeepsWhatHasCome) {
  grpc::ClientContext context;
  PrepareCall(context, testing::kAdaKey, absl::Seconds(30));
  v1::File file;
  const auto stream = stub_->UploadFile(&context, &file);
  v1::UploadFileRequest header, chunk;
  *header.mutable_header() = HeaderFor("hello", "u1");
  chunk.set_chunk("he");
  ASSERT_TRUE(stream->Write(header));
  ASSERT_TRUE(stream->Write(chunk));
  const absl::Status status = FromGrpcStatus(stream->Finish());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kAborted, HasSubstr("GetUpload")));
  EXPECT_EQ(ReasonOf(status), "UPLOAD_IDLE");
  EXPECT_EQ(GetUpload("u1")->received_bytes(), 2);
  v1::UploadHeader rest = HeaderFor("hello", "u1");
  rest.set_offset(2);
  EXPECT_THAT(Upload(rest, "hello"), IsOk());
}

TEST_F(IdleTransferTest, ADownloadThatNobodyReadsMakesRoom) {
  const std::string content(20 << 20, 'x');  // more than lies on the way unread
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::File file,
                              Upload(HeaderFor(content, "u1"), content, kMaxChunkBytes));
  grpc::ClientContext context;
  PrepareCall(context, testing::kAdaKey, absl::Seconds(60));
  v1::DownloadFileRequest request;
  request.set_name(file.name());
  const auto stream = stub_->DownloadFile(&context, request);
  v1::DownloadFileResponse response;
  ASSERT_TRUE(stream->Read(&response)) << "it has the only place";
  absl::StatusOr<v1::File> next = Upload(HeaderFor("hello", "u2"), "hello");
  for (const absl::Time patience = absl::Now() + absl::Seconds(30);
       !next.ok() && absl::Now() < patience;) {
    next = Upload(HeaderFor("hello", "u2"), "hello");
  }
  EXPECT_THAT(next, IsOk());
  while (stream->Read(&response)) continue;
  EXPECT_THAT(FromGrpcStatus(stream->Finish()), StatusIs(absl::StatusCode::kCancelled));
}

}  // namespace
}  // namespace anneal
