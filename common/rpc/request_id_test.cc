#include "common/rpc/request_id.h"

#include <memory>
#include <string>
#include <utility>

#include "anneal/v1/artifact_service.grpc.pb.h"
#include "anneal/v1/fine_tuning_service.grpc.pb.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/rpc/channel.h"
#include "common/rpc/grpc_log.h"
#include "common/rpc/server.h"
#include "common/rpc/status.h"
#include "grpc/support/log.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;

// Answer with the id they see: a call on a thread, one of the callback API, a stream.
class Jobs : public v1::FineTuningService::Service {
 public:
  grpc::Status CancelJob(grpc::ServerContext* context, const v1::JobActionRequest* request,
                         v1::Job* response) override {
    response->set_name(std::string(RequestIdOf(*context)));
    if (request->name().empty())
      return ToGrpcStatus(WithReason(InvalidField("name", "is empty"), "NO_NAME"));
    return grpc::Status::OK;
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest*,
                        grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
    v1::WatchJobResponse response;
    response.mutable_snapshot()->set_name(std::string(RequestIdOf(*context)));
    writer->Write(response);
    return ToGrpcStatus(absl::NotFoundError("gone"));
  }
};
class Artifacts : public v1::ArtifactService::CallbackService {
 public:
  grpc::ServerUnaryReactor* ListArtifacts(grpc::CallbackServerContext* context,
                                          const v1::ListArtifactsRequest*,
                                          v1::ListArtifactsResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    response->set_folder_uri(std::string(RequestIdOf(*context)));
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

class RequestIdTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Interceptors interceptors;
    interceptors.push_back(std::make_unique<RequestIdInterceptorFactory>(Clock::Real(), random_));
    ANNEAL_ASSERT_OK_AND_ASSIGN(
        server_, RpcServer::Start({.address = "127.0.0.1:0"}, {&jobs_, &artifacts_}, metrics_,
                                  Clock::Real(), std::move(interceptors)));
    ANNEAL_ASSERT_OK_AND_ASSIGN(channel_, MakeChannel({.target = server_->address()}));
  }

  static void Prepare(grpc::ClientContext& context, const std::string& metadata) {
    PrepareCall(context, "", absl::Seconds(30));
    if (!metadata.empty()) context.AddMetadata(kRequestIdKey, metadata);
  }
  static std::string Returned(const grpc::ClientContext& context) {
    const auto& trailing = context.GetServerTrailingMetadata();
    const auto found = trailing.find(kRequestIdKey);
    return found == trailing.end() ? "" : std::string(found->second.data(), found->second.size());
  }
  // The id of a call that sends these; the client is told the same.
  std::string IdOf(const std::string& metadata, const std::string& field) {
    grpc::ClientContext context;
    Prepare(context, metadata);
    v1::JobActionRequest request;
    request.set_name("jobs/x");
    request.set_request_id(field);
    v1::Job response;
    EXPECT_TRUE(
        v1::FineTuningService::NewStub(channel_)->CancelJob(&context, request, &response).ok());
    EXPECT_EQ(Returned(context), response.name());
    return response.name();
  }

  SeededRandom random_{5};
  MetricRegistry registry_;
  RpcMetrics metrics_{registry_};
  Jobs jobs_;
  Artifacts artifacts_;
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(RequestIdTest, IsTheClientsWhereItSentOne) {
  EXPECT_EQ(IdOf("from.metadata-1", ""), "from.metadata-1");
  EXPECT_EQ(IdOf("", "from_the_message"), "from_the_message");
  EXPECT_EQ(IdOf("from.metadata-1", "from_the_message"), "from.metadata-1");
}

TEST_F(RequestIdTest, IsMadeWhereTheClientSentNoneThatMayBeLogged) {
  const std::string first = IdOf("", "");
  EXPECT_TRUE(IsUlid(first)) << first;
  EXPECT_NE(IdOf("", ""), first);
  EXPECT_TRUE(IsUlid(IdOf("a b\"c", "")));
  EXPECT_TRUE(IsUlid(IdOf(std::string(65, 'a'), "job=1 ")));
  EXPECT_EQ(IdOf(std::string(64, 'a'), ""), std::string(64, 'a'));
  EXPECT_EQ(IdOf("not good", "good"), "good");
}

TEST_F(RequestIdTest, ReachesCallbackCalls) {
  grpc::ClientContext context;
  Prepare(context, "id-1");
  v1::ListArtifactsResponse response;
  ASSERT_TRUE(v1::ArtifactService::NewStub(channel_)->ListArtifacts(&context, {}, &response).ok());
  EXPECT_EQ(response.folder_uri(), "id-1");
  EXPECT_EQ(Returned(context), "id-1");
}

TEST_F(RequestIdTest, ComesWithErrors) {
  const auto jobs = v1::FineTuningService::NewStub(channel_);
  grpc::ClientContext context;
  Prepare(context, "id-2");
  v1::Job response;
  const absl::Status status = FromGrpcStatus(jobs->CancelJob(&context, {}, &response));
  EXPECT_EQ(RequestIdOf(status), "id-2");
  EXPECT_EQ(ReasonOf(status), "NO_NAME");
  EXPECT_EQ(FieldViolationsOf(status).size(), 1u);
  // Also with gRPC's own.
  grpc::ClientContext other;
  Prepare(other, "id-3");
  const absl::Status unknown = FromGrpcStatus(jobs->PauseJob(&other, {}, &response));
  EXPECT_EQ(unknown.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(RequestIdOf(unknown), "id-3");
}

TEST_F(RequestIdTest, ComesAtTheEndOfStreams) {
  const auto jobs = v1::FineTuningService::NewStub(channel_);
  grpc::ClientContext context;
  Prepare(context, "id-4");
  const auto reader = jobs->WatchJob(&context, {});
  v1::WatchJobResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.snapshot().name(), "id-4");
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(RequestIdOf(FromGrpcStatus(reader->Finish())), "id-4");
  EXPECT_EQ(Returned(context), "id-4");
}

TEST(GrpcLogTest, LinesHaveOurForm) {
  TakeGrpcLogs();
  ::testing::internal::CaptureStderr();
  gpr_log(GPR_ERROR, "no %s", "luck");
  const std::string line = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(line, HasSubstr(" level=error source=request_id_test.cc:"));
  EXPECT_THAT(line, HasSubstr(" msg=\"no luck\" library=grpc\n"));
}

}  // namespace
}  // namespace anneal
