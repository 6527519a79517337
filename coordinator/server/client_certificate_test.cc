// Clients that are known by their certificates, over real TLS.

#include <memory>
#include <string>

#include "coordinator/server/testing/tls_coordinator_fixture.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::kNoKey;
using testing::StatusIs;

class ClientCertificateTest : public testing::TlsCoordinatorFixture {
 protected:
  void SetUp() override {
    TlsCoordinatorFixture::SetUp();
    MakeAuthority("stranger");
    MakeClient("bob", "/O=Lab/CN=bob");
    MakeClient("false_bob", "/O=Lab/CN=bob", "stranger");
  }

  std::unique_ptr<Jobs> ConnectAs(const std::string& client) {
    return v1::FineTuningService::NewStub(ChannelAs(client));
  }
  absl::Status List(const std::string& client, const char* key = kNoKey) {
    return Call(*ConnectAs(client), &Jobs::ListJobs, v1::ListJobsRequest(), key).status();
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
  Revoke(bound.key());
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
  ANNEAL_ASSERT_OK(Bind("CN=bob,O=Lab", v1::Key::ROLE_USER, "vision", absl::Seconds(2)).status());
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
