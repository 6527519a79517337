// Clients that are known by their certificates, over real TLS.

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "anneal/v1/key_service.grpc.pb.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

constexpr char kNoKey[] = "";
constexpr char kNewKey[] =
    "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 2>/dev/null";

class ClientCertificateTest : public testing::CoordinatorFixture {
 protected:
  void SetUp() override {
    CoordinatorFixture::SetUp();
    MakeAuthority("authority");
    MakeAuthority("stranger");
    OpenSsl(absl::StrCat("req -x509 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 ",
                         "-keyout ", In("server.key"), " -out ", In("server.pem"), " ", kNewKey));
    MakeClient("bob", "/O=Lab/CN=bob", "authority");
    MakeClient("false_bob", "/O=Lab/CN=bob", "stranger");
    options_.tls_certificate_file = In("server.pem");
    options_.tls_key_file = In("server.key");
    options_.client_ca_file = In("authority.pem");
    StartCoordinator();
  }

  std::string In(const std::string& name) const { return absl::StrCat(folder_, "/", name); }
  static void OpenSsl(const std::string& arguments) {
    ASSERT_EQ(std::system(absl::StrCat("openssl ", arguments).c_str()), 0) << arguments;
  }
  void MakeAuthority(const std::string& name) {
    OpenSsl(absl::StrCat("req -x509 -subj /CN=", name, " -keyout ", In(name), ".key -out ",
                         In(name), ".pem ", kNewKey));
  }
  void MakeClient(const std::string& name, const std::string& subject,
                  const std::string& authority) {
    OpenSsl(absl::StrCat("req -new -subj ", subject, " -keyout ", In(name), ".key -out ", In(name),
                         ".csr ", kNewKey));
    OpenSsl(absl::StrCat("x509 -req -days 1 -in ", In(name), ".csr -CA ", In(authority),
                         ".pem -CAkey ", In(authority), ".key -CAcreateserial -out ", In(name),
                         ".pem 2>/dev/null"));
  }

  // Connects with this client's certificate; none if empty.
  std::unique_ptr<Jobs> ConnectAs(const std::string& client) {
    ChannelOptions options{.target = coordinator_->api_addresses().front(),
                           .tls = true,
                           .tls_ca_file = In("server.pem")};
    if (!client.empty()) {
      options.tls_certificate_file = In(client + ".pem");
      options.tls_key_file = In(client + ".key");
    }
    return v1::FineTuningService::NewStub(*MakeChannel(options));
  }
  absl::Status List(const std::string& client, const char* key = kNoKey) {
    return Call(*ConnectAs(client), &Jobs::ListJobs, v1::ListJobsRequest(), key).status();
  }

  std::unique_ptr<v1::KeyService::Stub> LocalKeys() {
    return v1::KeyService::NewStub(*MakeChannel({.target = "unix:" + options_.admin_socket}));
  }
  absl::StatusOr<v1::CreateKeyResponse> Bind(const std::string& subject, v1::Key::Role role,
                                             absl::Duration lifetime = absl::InfiniteDuration()) {
    v1::CreateKeyRequest request;
    request.set_role(role);
    request.set_project("vision");
    request.set_creator("bob");
    request.set_certificate_subject(subject);
    if (lifetime != absl::InfiniteDuration()) {
      request.mutable_expire_time()->set_seconds(
          absl::ToUnixSeconds(Clock::Real().TimeNow() + lifetime));
    }
    return Call(*LocalKeys(), &v1::KeyService::Stub::CreateKey, request, kNoKey);
  }
};

TEST_F(ClientCertificateTest, StandsForTheKeyThatNamesItsSubject) {
  EXPECT_EQ(ReasonOf(List("bob")), "CERTIFICATE_UNKNOWN");
  EXPECT_THAT(List("bob"), StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("CN=bob,O=Lab")));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::CreateKeyResponse bound,
                              Bind("CN=bob,O=Lab", v1::Key::ROLE_VIEWER));
  EXPECT_EQ(bound.secret(), "");
  EXPECT_THAT(List("bob"), IsOk());
  EXPECT_EQ(ReasonOf(Call(*ConnectAs("bob"), &Jobs::CreateJob, NewRequest(1), kNoKey).status()),
            "ROLE_TOO_WEAK");

  // It outlives a restart, until it is revoked.
  StartCoordinator();
  EXPECT_THAT(List("bob"), IsOk());
  v1::RevokeKeyRequest revoke;
  revoke.set_name(bound.key().name());
  ANNEAL_ASSERT_OK(Call(*LocalKeys(), &v1::KeyService::Stub::RevokeKey, revoke, kNoKey).status());
  EXPECT_EQ(ReasonOf(List("bob")), "CERTIFICATE_UNKNOWN");
  EXPECT_THAT(Bind("CN=bob,O=Lab", v1::Key::ROLE_USER), IsOk());
  EXPECT_THAT(Call(*ConnectAs("bob"), &Jobs::CreateJob, NewRequest(1), kNoKey), IsOk());
}

TEST_F(ClientCertificateTest, OnlyThoseOfTheAuthorityCount) {
  ANNEAL_ASSERT_OK(Bind("CN=bob,O=Lab", v1::Key::ROLE_ADMIN).status());
  EXPECT_THAT(List("false_bob"), StatusIs(absl::StatusCode::kUnavailable)) << "no connection";
  EXPECT_EQ(ReasonOf(List("")), "API_KEY_MISSING");
  // The subject is not a key, nor is what it is kept under.
  EXPECT_EQ(ReasonOf(List("", "CN=bob,O=Lab")), "API_KEY_UNKNOWN");
  EXPECT_EQ(ReasonOf(List("", ProofOfCertificate("CN=bob,O=Lab").c_str())), "API_KEY_UNKNOWN");
}

TEST_F(ClientCertificateTest, AKeyIsEnoughAndGoesBeforeACertificate) {
  ANNEAL_ASSERT_OK(Bind("CN=bob,O=Lab", v1::Key::ROLE_ADMIN).status());
  EXPECT_THAT(List("", testing::kKey), IsOk());
  EXPECT_EQ(ReasonOf(List("bob", "no-such-key-0123456789")), "API_KEY_UNKNOWN");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::Job job, Call(*ConnectAs("bob"), &Jobs::CreateJob,
                                                      NewRequest(1), testing::kOtherKey));
  EXPECT_EQ(job.project(), "other");
  EXPECT_EQ(job.creator(), "eve");
}

TEST_F(ClientCertificateTest, ASubjectStandsForOneKeyAndForAsLongAsAgreed) {
  EXPECT_THAT(Bind("bob", v1::Key::ROLE_USER), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Bind("CN=bob\n", v1::Key::ROLE_USER), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Bind("CN=w1", v1::Key::ROLE_WORKER), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Bind("CN=" + std::string(600, 'b'), v1::Key::ROLE_USER),
              StatusIs(absl::StatusCode::kInvalidArgument));
  ANNEAL_ASSERT_OK(Bind("CN=bob,O=Lab", v1::Key::ROLE_USER, absl::Seconds(2)).status());
  const absl::Status second = Bind("CN=bob,O=Lab", v1::Key::ROLE_ADMIN).status();
  EXPECT_THAT(second, StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(ReasonOf(second), "CERTIFICATE_SUBJECT_TAKEN");
  absl::Status status = List("bob");
  for (const absl::Time patience = absl::Now() + absl::Seconds(20);
       status.ok() && absl::Now() < patience;) {
    status = List("bob");
  }
  EXPECT_EQ(ReasonOf(status), "CERTIFICATE_EXPIRED");
}

}  // namespace
}  // namespace anneal
