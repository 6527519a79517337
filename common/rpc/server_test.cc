#include "common/rpc/server.h"

#include <sys/stat.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "anneal/v1/artifact_service.grpc.pb.h"
#include "common/base/status.h"
#include "common/base/status_matchers.h"
#include "common/rpc/authentication.h"
#include "common/rpc/certificate_metrics.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "grpcpp/generic/generic_stub.h"

namespace anneal {
namespace {

using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;

constexpr char kKey[] = "key-0123456789abcdefghij";
constexpr char kViewerKey[] = "key-of-a-viewer-0123456789";
// A parent whose artifacts the service cannot list.
constexpr char kBroken[] = "jobs/broken";

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + name;
  std::ofstream(path) << text;
  ::chmod(path.c_str(), 0600);
  return path;
}

// A parent that is answered when the test says so.
constexpr char kHold[] = "hold";

// Answers with the caller's project and creator, or as told.
class EchoService : public v1::ArtifactService::CallbackService {
 public:
  explicit EchoService(const Authenticator& authenticator) : authenticator_(authenticator) {}
  grpc::ServerUnaryReactor* ListArtifacts(grpc::CallbackServerContext* context,
                                          const v1::ListArtifactsRequest* request,
                                          v1::ListArtifactsResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (request->parent() == kBroken) {
      reactor->Finish({grpc::StatusCode::UNAVAILABLE, "broken"});
      return reactor;
    }
    if (request->parent() == kHold) {
      absl::MutexLock lock(&mu_);
      held_ = reactor;
      return reactor;
    }
    const absl::StatusOr<Caller> caller = authenticator_.CallerOf(*context, Right::kWrite);
    if (caller.ok()) response->set_folder_uri(absl::StrCat(caller->project, "/", caller->creator));
    reactor->Finish(ToGrpcStatus(caller.status()));
    return reactor;
  }

  // Waits until a call for kHold has come.
  void AwaitHeld() {
    const auto is_held = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return held_ != nullptr; };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&is_held));
  }
  // Answers it.
  void LetGo() {
    absl::MutexLock lock(&mu_);
    held_->Finish(grpc::Status::OK);
  }

 private:
  const Authenticator& authenticator_;
  absl::Mutex mu_;
  grpc::ServerUnaryReactor* held_ ABSL_GUARDED_BY(mu_) = nullptr;
};

class ServerTest : public ::testing::Test {
 protected:
  ServerTest()
      : authenticator_(*ReadCredentialsFile(WriteFile(
                           "credentials", absl::StrCat("# who may call\n\n", kKey,
                                                       " vision ada@example.org # laptop\n",
                                                       kViewerKey, " vision eve viewer\n"))),
                       Clock::Real()),
        service_(authenticator_) {}

  absl::StatusOr<std::unique_ptr<RpcServer>> Start(const ServerOptions& options) {
    return RpcServer::Start(options, {&service_}, metrics_, Clock::Real());
  }

  static absl::StatusOr<std::string> Call(const ChannelOptions& options, const std::string& key,
                                          const std::string& parent = "jobs/x") {
    ANNEAL_ASSIGN_OR_RETURN(auto channel, MakeChannel(options));
    auto stub = v1::ArtifactService::NewStub(channel);
    grpc::ClientContext context;
    PrepareCall(context, key, absl::Seconds(10));
    v1::ListArtifactsRequest request;
    request.set_parent(parent);
    v1::ListArtifactsResponse response;
    ANNEAL_RETURN_IF_ERROR(FromGrpcStatus(stub->ListArtifacts(&context, request, &response)));
    return response.folder_uri();
  }

  MetricRegistry registry_;
  RpcMetrics metrics_{registry_};
  ApiKeyAuthenticator authenticator_;
  EchoService service_;
};

TEST_F(ServerTest, KnowsItsCallersAndCountsCalls) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server, Start({.address = "127.0.0.1:0"}));
  const ChannelOptions to = {.target = server->address()};
  EXPECT_THAT(Call(to, kKey), ::anneal::testing::IsOkAndHolds("vision/ada@example.org"));
  const absl::StatusOr<std::string> unknown = Call(to, "key-0123456789abcdefghiX");
  EXPECT_THAT(unknown, StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_EQ(ReasonOf(unknown.status()), "API_KEY_UNKNOWN");
  EXPECT_EQ(ReasonOf(Call(to, "").status()), "API_KEY_MISSING");
  const absl::StatusOr<std::string> viewer = Call(to, kViewerKey);
  EXPECT_THAT(viewer, StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_EQ(ReasonOf(viewer.status()), "ROLE_TOO_WEAK");
  EXPECT_EQ(ReasonOf(Call(to, std::string(5000, 'k')).status()), "API_KEY_MALFORMED");

  // A call's numbers are written when the server has let go of it.
  server->Shutdown(absl::Seconds(5));
  server.reset();
  const std::string scrape = registry_.Scrape();
  EXPECT_THAT(scrape,
              HasSubstr("code=\"OK\",method=\"anneal.v1.ArtifactService/ListArtifacts\"} 1"));
  EXPECT_THAT(
      scrape,
      HasSubstr("code=\"UNAUTHENTICATED\",method=\"anneal.v1.ArtifactService/ListArtifacts\"} 3"));
  EXPECT_THAT(
      scrape,
      HasSubstr("anneal_rpc_open_calls{method=\"anneal.v1.ArtifactService/ListArtifacts\"} 0"));
  EXPECT_THAT(scrape, HasSubstr("anneal_rpc_duration_seconds_count{method=\"anneal.v1."
                                "ArtifactService/ListArtifacts\"} 5"));
}

TEST_F(ServerTest, FailuresOfItsOwnAreCountedFromZeroOn) {
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_rpc_failures_total 0\n"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server, Start({.address = "127.0.0.1:0"}));
  const ChannelOptions to = {.target = server->address()};
  EXPECT_THAT(Call(to, kKey), ::anneal::testing::IsOk());
  EXPECT_THAT(Call(to, "no key"), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(Call(to, kKey, kBroken), StatusIs(absl::StatusCode::kUnavailable));
  server->Shutdown(absl::Seconds(5));
  server.reset();
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_rpc_failures_total 1\n"));
}

// Counts the calls that it is asked about.
class CountingFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CountingFactory(std::atomic<int>& calls) : calls_(calls) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo*) override {
    ++calls_;
    return nullptr;
  }

 private:
  std::atomic<int>& calls_;
};

TEST_F(ServerTest, MadeUpMethodsLeaveNoTrace) {
  std::atomic<int> seen = 0;
  Interceptors interceptors;
  interceptors.push_back(std::make_unique<CountingFactory>(seen));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server,
                              RpcServer::Start({.address = "127.0.0.1:0"}, {&service_}, metrics_,
                                               Clock::Real(), std::move(interceptors)));
  EXPECT_THAT(server->methods(),
              ::testing::IsSupersetOf({"anneal.v1.ArtifactService/ListArtifacts",
                                       "anneal.v1.ArtifactService/DownloadArtifact",
                                       "grpc.health.v1.Health/Check"}));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto channel, MakeChannel({.target = server->address()}));
  const auto call = [&](const std::string& path) {
    grpc::GenericStub stub(channel);
    grpc::ClientContext context;
    PrepareCall(context, "", absl::Seconds(10));
    grpc::CompletionQueue queue;
    const grpc::Slice empty;
    grpc::ByteBuffer response;
    const auto pending = stub.PrepareUnaryCall(&context, path, grpc::ByteBuffer(&empty, 1), &queue);
    pending->StartCall();
    grpc::Status status;
    pending->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    return status.error_code();
  };
  // Also those of a service that this program has, but this server has not.
  for (const std::string& path :
       {std::string("/anneal.v1.ArtifactService/MadeUp"), std::string("/anneal.v1.Made/Up"),
        std::string("/anneal.v1.FileService/GetFile"), "/made.Up/" + std::string(3000, 'x'),
        std::string("/made.Up/\xff\xfe")}) {
    EXPECT_EQ(call(path), grpc::StatusCode::UNIMPLEMENTED);
  }
  EXPECT_EQ(seen, 0);
  EXPECT_EQ(call("/anneal.v1.ArtifactService/ListArtifacts"), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(seen, 1);
  server->Shutdown(absl::Seconds(5));
  server.reset();
  const std::string scrape = registry_.Scrape();
  EXPECT_THAT(scrape, HasSubstr("code=\"UNIMPLEMENTED\",method=\"unknown\"} 5"));
  EXPECT_THAT(scrape, ::testing::Not(::testing::ContainsRegex("[mM]ade")));
  EXPECT_THAT(scrape, ::testing::Not(HasSubstr("GetFile")));
}

TEST_F(ServerTest, AConnectionHasSoManyCallsOpenAndNoMore) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      auto server, Start({.address = "127.0.0.1:0", .quotas = {.connection_streams = 1}}));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto channel, MakeChannel({.target = server->address()}));
  auto stub = v1::ArtifactService::NewStub(channel);
  grpc::ClientContext holding;
  PrepareCall(holding, kKey, absl::Seconds(60));
  v1::ListArtifactsRequest hold;
  hold.set_parent(kHold);
  v1::ListArtifactsResponse held;
  absl::Notification answered;
  stub->async()->ListArtifacts(&holding, &hold, &held, [&](grpc::Status status) {
    EXPECT_TRUE(status.ok()) << status.error_message();
    answered.Notify();
  });
  service_.AwaitHeld();
  const auto call = [&](absl::Duration timeout) {
    grpc::ClientContext context;
    PrepareCall(context, kKey, timeout);
    v1::ListArtifactsResponse response;
    return FromGrpcStatus(stub->ListArtifacts(&context, v1::ListArtifactsRequest(), &response));
  };
  EXPECT_THAT(call(absl::Milliseconds(300)), StatusIs(absl::StatusCode::kDeadlineExceeded));
  service_.LetGo();
  answered.WaitForNotification();
  ANNEAL_EXPECT_OK(call(absl::Seconds(30)));
}

TEST_F(ServerTest, AUnixSocketIsForItsOwnerOnly) {
  const std::string path = ::testing::TempDir() + "server_test.sock";
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server, Start({.address = "unix:" + path}));
  struct stat info = {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_THAT(Call({.target = server->address()}, kKey), ::anneal::testing::IsOk());
}

// A self-signed certificate of 127.0.0.1 and its key.
void MakeCertificate(const std::string& certificate, const std::string& key) {
  ASSERT_EQ(std::system(absl::StrCat("openssl req -x509 -newkey ec -pkeyopt "
                                     "ec_paramgen_curve:prime256v1 -nodes -days 1 -subj "
                                     "/CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout '",
                                     key, "' -out '", certificate, "' 2>/dev/null")
                            .c_str()),
            0);
}

TEST_F(ServerTest, SpeaksTls) {
  const std::string key = ::testing::TempDir() + "key.pem",
                    certificate = ::testing::TempDir() + "certificate.pem";
  MakeCertificate(certificate, key);
  ANNEAL_ASSERT_OK_AND_ASSIGN(
      auto server,
      Start({.address = "127.0.0.1:0", .tls_certificate_file = certificate, .tls_key_file = key}));
  EXPECT_THAT(Call({.target = server->address(), .tls = true, .tls_ca_file = certificate}, kKey),
              ::anneal::testing::IsOk());
  EXPECT_THAT(Call({.target = server->address()}, kKey), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ServerTest, TakesNewCertificatesWithoutARestart) {
  const auto in = [](const char* name) { return ::testing::TempDir() + name; };
  MakeCertificate(in("first.pem"), in("first.key"));
  MakeCertificate(in("second.pem"), in("second.key"));
  const auto install = [&](const std::string& from, const std::string& to) {
    std::filesystem::copy_file(from, to + ".new",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::rename(to + ".new", to);
  };
  install(in("first.pem"), in("tls.crt"));
  install(in("first.key"), in("tls.key"));
  // Workers are let in by the authority of their certificate, which is renewed with it.
  install(in("first.pem"), in("ca.crt"));
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server, Start({.address = "127.0.0.1:0",
                                                  .tls_certificate_file = in("tls.crt"),
                                                  .tls_key_file = in("tls.key"),
                                                  .tls_client_ca_file = in("ca.crt"),
                                                  .tls_reload_seconds = 1}));
  const auto call_with = [&](const std::string& pair) {
    return Call({.target = server->address(),
                 .tls = true,
                 .tls_ca_file = in(absl::StrCat(pair, ".pem").c_str()),
                 .tls_certificate_file = in(absl::StrCat(pair, ".pem").c_str()),
                 .tls_key_file = in(absl::StrCat(pair, ".key").c_str())},
                kKey);
  };
  EXPECT_THAT(call_with("first"), ::anneal::testing::IsOk());
  EXPECT_THAT(call_with("second"), StatusIs(absl::StatusCode::kUnavailable));
  install(in("second.pem"), in("tls.crt"));
  install(in("second.key"), in("tls.key"));
  install(in("second.pem"), in("ca.crt"));
  absl::StatusOr<std::string> renewed = call_with("second");
  for (const absl::Time patience = absl::Now() + absl::Seconds(30);
       !renewed.ok() && absl::Now() < patience;) {
    renewed = call_with("second");
  }
  EXPECT_THAT(renewed, ::anneal::testing::IsOk());
  EXPECT_THAT(call_with("first"), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ServerTest, AsksClientsForTheirCertificateAndReadsItsAuthorityAgainAlone) {
  const auto in = [](const std::string& name) { return ::testing::TempDir() + "mutual_" + name; };
  for (const std::string name : {"server", "first", "second"})
    MakeCertificate(in(name + ".pem"), in(name + ".key"));
  const auto trust = [&](const std::string& name) {
    std::filesystem::copy_file(in(name + ".pem"), in("ca.new"),
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::rename(in("ca.new"), in("ca.pem"));
  };
  trust("first");
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server, Start({.address = "127.0.0.1:0",
                                                  .tls_certificate_file = in("server.pem"),
                                                  .tls_key_file = in("server.key"),
                                                  .tls_client_ca_file = in("ca.pem"),
                                                  .tls_reload_seconds = 1}));
  const auto call_as = [&](const std::string& name) {
    ChannelOptions options{
        .target = server->address(), .tls = true, .tls_ca_file = in("server.pem")};
    if (!name.empty()) {
      options.tls_certificate_file = in(name + ".pem");
      options.tls_key_file = in(name + ".key");
    }
    return Call(options, kKey);
  };
  EXPECT_THAT(call_as(""), StatusIs(absl::StatusCode::kUnavailable))
      << "its key alone is no way in";
  EXPECT_THAT(call_as("first"), ::anneal::testing::IsOk());
  EXPECT_THAT(call_as("second"), StatusIs(absl::StatusCode::kUnavailable));
  trust("second");
  absl::StatusOr<std::string> renewed = call_as("second");
  for (const absl::Time patience = absl::Now() + absl::Seconds(30);
       !renewed.ok() && absl::Now() < patience;) {
    renewed = call_as("second");
  }
  EXPECT_THAT(renewed, ::anneal::testing::IsOk());
  EXPECT_THAT(call_as("first"), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ServerTest, ServesRemotelyWithoutTlsOnlyWhenToldToAndWarns) {
  EXPECT_THAT(Start({.address = "0.0.0.0:0"}), StatusIs(absl::StatusCode::kInvalidArgument));
  ::testing::internal::CaptureStderr();
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server,
                              Start({.address = "0.0.0.0:0", .insecure_allow_remote = true}));
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("serving without TLS"));
  const std::string port = server->address().substr(server->address().rfind(':'));
  EXPECT_THAT(Call({.target = "127.0.0.1" + port}, kKey), ::anneal::testing::IsOk());
  // A name that only looks like an address of this machine is remote.
  EXPECT_THAT(Start({.address = "127.example.com:0"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("TLS")));
}

TEST(ChannelTest, SendsNoKeyInTheClearToOtherMachines) {
  for (const char* local : {"127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/nowhere",
                            "dns:///localhost:1", "ipv4:127.0.0.1:1"}) {
    EXPECT_THAT(MakeChannel({.target = local, .sends_key = true}), ::anneal::testing::IsOk())
        << local;
  }
  for (const char* remote : {"10.0.0.7:1", "coordinator:7443", "127.example.com:1",
                             "dns:///anneal.example:1", "ipv4:127.0.0.1:1,10.0.0.7:1"}) {
    EXPECT_THAT(MakeChannel({.target = remote, .sends_key = true}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         ::testing::AllOf(HasSubstr(remote), HasSubstr("--tls"),
                                          HasSubstr("--insecure-allow-remote"))))
        << remote;
    EXPECT_THAT(MakeChannel({.target = remote}), ::anneal::testing::IsOk());
    EXPECT_THAT(MakeChannel({.target = remote, .tls = true, .sends_key = true}),
                ::anneal::testing::IsOk());
    EXPECT_THAT(MakeChannel({.target = remote, .sends_key = true, .insecure_allow_remote = true}),
                ::anneal::testing::IsOk());
  }
}

TEST(CertificateMetricsTest, TellsWhenACertificateEndsAndCountsABadFileAsExpired) {
  const std::string file = ::testing::TempDir() + "ends.pem";
  ASSERT_EQ(std::system(absl::StrCat("openssl req -x509 -newkey ec -pkeyopt "
                                     "ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x "
                                     "-keyout /dev/null -out '",
                                     file, "' 2>/dev/null")
                            .c_str()),
            0);
  ANNEAL_ASSERT_OK_AND_ASSIGN(const absl::Time end, CertificateExpiry(file));
  const absl::Duration left = end - Clock::Real().TimeNow();
  EXPECT_GT(left, absl::Hours(47));
  EXPECT_LE(left, absl::Hours(48));
  const std::string other = WriteFile("other.pem", "no certificate\n");
  EXPECT_THAT(CertificateExpiry(other), StatusIs(absl::StatusCode::kInvalidArgument));

  // Until an authority is replaced the file holds two, of which the old one may be about to end.
  const std::string sooner = ::testing::TempDir() + "sooner.pem";
  MakeCertificate(sooner, ::testing::TempDir() + "sooner.key");
  const auto contents = [](const std::string& path) {
    std::ifstream in(path);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string both = WriteFile("both.pem", contents(sooner) + contents(file));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const absl::Time first, CertificateExpiry(sooner));
  ASSERT_LT(first, end);
  EXPECT_THAT(CertificateExpiry(both), ::anneal::testing::IsOkAndHolds(first));
  EXPECT_THAT(AuthoritiesExpiry(both), ::anneal::testing::IsOkAndHolds(end));
  EXPECT_THAT(AuthoritiesExpiry(other), StatusIs(absl::StatusCode::kInvalidArgument));

  MetricRegistry registry;
  CertificateMetrics metrics(registry);
  EXPECT_THAT(metrics.Measure("none", ""), ::anneal::testing::IsOk());
  EXPECT_THAT(registry.Scrape(), ::testing::Not(HasSubstr("certificate=")));
  EXPECT_THAT(metrics.Measure("server", other), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(metrics.MeasureAuthorities("client_ca", both), ::anneal::testing::IsOk());
  EXPECT_THAT(registry.Scrape(), HasSubstr("{certificate=\"client_ca\"}"));
  EXPECT_THAT(
      registry.Scrape(),
      HasSubstr("anneal_tls_certificate_expiry_timestamp_seconds{certificate=\"server\"} 0\n"));
}

TEST_F(ServerTest, RefusesMessagesOverTheLimit) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server, Start({.address = "127.0.0.1:0"}));
  EXPECT_THAT(Call({.target = server->address()}, kKey, std::string(kMaxMessageBytes + 1, 'x')),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(ServerTest, RefusesBadOptions) {
  EXPECT_THAT(Start({.address = "0.0.0.0:0"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("TLS")));
  EXPECT_THAT(Start({.address = "7443"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("host:port")));
  EXPECT_THAT(Start({.address = "unix:/" + std::string(200, 'x')}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("Unix socket")));
  EXPECT_THAT(Start({.address = "127.0.0.1:0", .tls_certificate_file = "x.pem"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("key file")));
  EXPECT_THAT(Start({.address = "127.0.0.1:0",
                     .tls_certificate_file = "/nowhere.pem",
                     .tls_key_file = "/nowhere.pem"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere.pem")));
}

TEST_F(ServerTest, APortBelongsToOneServer) {
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server, Start({.address = "127.0.0.1:0"}));
  EXPECT_THAT(Start({.address = server->address()}), StatusIs(absl::StatusCode::kUnavailable));
}

TEST(CredentialsFileTest, BadFilesAreNamedByLineAndNeverQuoted) {
  const auto load = [](const std::string& text) {
    return ReadCredentialsFile(WriteFile("bad", text)).status();
  };
  EXPECT_THAT(load("# nothing\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no key")));
  EXPECT_THAT(load(absl::StrCat("\n", kKey, " p\n")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bad:2:")));
  EXPECT_THAT(load("short p c\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("20 to 256")));
  EXPECT_THAT(load(absl::StrCat(kKey, " p/../q c\n")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("project")));
  EXPECT_THAT(load(absl::StrCat(kKey, " .. c\n")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("project")));
  const absl::Status twice = load(absl::StrCat(kKey, " p c\n", kKey, " q c\n"));
  EXPECT_THAT(twice, StatusIs(absl::StatusCode::kInvalidArgument,
                              HasSubstr("bad:2: this key occurs twice")));
  EXPECT_FALSE(absl::StrContains(twice.message(), kKey));
  EXPECT_THAT(ReadCredentialsFile("/nowhere"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace anneal
