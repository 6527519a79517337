// authorization_test.cc with certificates in place of keys, over TLS.

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/server/testing/method_table.h"
#include "coordinator/server/testing/owned_resources.h"
#include "coordinator/server/testing/tls_coordinator_fixture.h"

namespace anneal {
namespace {

using testing::IsOk;
using testing::MethodCaller;
using testing::NeedOf;
using testing::StatusIs;
using Method = google::protobuf::MethodDescriptor;

class CertificateAuthorizationTest : public testing::TlsCoordinatorFixture {
 protected:
  // A channel whose certificate stands for a role.
  std::shared_ptr<grpc::Channel> ChannelOf(const std::string& name, v1::Key::Role role,
                                           const std::string& project = "vision") {
    MakeClient(name, absl::StrCat("/O=Lab/CN=", name));
    EXPECT_THAT(Bind(absl::StrCat("CN=", name, ",O=Lab"), role, project), IsOk());
    return ChannelAs(name);
  }
  absl::Status CallWith(const std::shared_ptr<grpc::Channel>& channel, const Method& method,
                        const std::string& resource = "",
                        const std::string& key = testing::kNoKey) {
    return MethodCaller::Call(channel, method, *caller_.NewRequest(method, resource), key);
  }
  // The fleet's address knows workers by their keys alone.
  std::vector<const Method*> ApiMethods() {
    std::vector<const Method*> methods = testing::ServedMethodsOf(*coordinator_);
    methods.erase(std::remove_if(methods.begin(), methods.end(),
                                 [](const Method* m) { return testing::IsFleetMethod(*m); }),
                  methods.end());
    return methods;
  }

  MethodCaller caller_;
};

TEST_F(CertificateAuthorizationTest, EveryMethodNeedsItsRight) {
  const std::map<Role, std::shared_ptr<grpc::Channel>> channels = {
      {Role::kViewer, ChannelOf("viewer", v1::Key::ROLE_VIEWER)},
      {Role::kUser, ChannelOf("user", v1::Key::ROLE_USER)},
      {Role::kAdmin, ChannelOf("admin", v1::Key::ROLE_ADMIN)}};
  for (const Method* method : ApiMethods()) {
    const Right right = NeedOf(*method).right;
    for (const auto& [role, channel] : channels) {
      SCOPED_TRACE(absl::StrCat(method->full_name(), " by ", RoleName(role)));
      const absl::Status status = CallWith(channel, *method);
      EXPECT_EQ(ReasonOf(status) == "ROLE_TOO_WEAK", !IsAllowed(role, right)) << status;
      EXPECT_NE(status.code(), absl::StatusCode::kUnauthenticated) << status;
      EXPECT_NE(status.code(), absl::StatusCode::kUnavailable) << status;
      EXPECT_NE(status.code(), absl::StatusCode::kInternal) << status;
    }
  }
}

TEST_F(CertificateAuthorizationTest, NoMethodAnswersToACertificateThatStandsForNobody) {
  MakeClient("nobody", "/O=Lab/CN=nobody");
  MakeClient("revoked", "/O=Lab/CN=revoked");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::CreateKeyResponse revoked,
                              Bind("CN=revoked,O=Lab", v1::Key::ROLE_ADMIN));
  Revoke(revoked.key());
  MakeClient("expired", "/O=Lab/CN=expired");
  ANNEAL_ASSERT_OK(
      Bind("CN=expired,O=Lab", v1::Key::ROLE_ADMIN, "vision", absl::Seconds(2)).status());
  const std::shared_ptr<grpc::Channel> expired = ChannelAs("expired");
  const Method& any = *ApiMethods().front();
  const absl::Time patience = absl::Now() + absl::Seconds(20);
  while (ReasonOf(CallWith(expired, any)) != "CERTIFICATE_EXPIRED" && absl::Now() < patience)
    continue;
  const std::vector<std::pair<std::string, std::shared_ptr<grpc::Channel>>> channels = {
      {"API_KEY_MISSING", ChannelAs("")},
      {"CERTIFICATE_UNKNOWN", ChannelAs("nobody")},
      {"CERTIFICATE_UNKNOWN", ChannelAs("revoked")},
      {"CERTIFICATE_EXPIRED", expired}};
  for (const Method* method : ApiMethods()) {
    for (const auto& [reason, channel] : channels) {
      const absl::Status status = CallWith(channel, *method);
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnauthenticated)) << method->full_name();
      EXPECT_EQ(ReasonOf(status), reason) << method->full_name();
    }
    // A key is what counts where one is sent, a bad one too.
    EXPECT_EQ(ReasonOf(CallWith(expired, *method, "", "no-such-key-0123456789")),
              "API_KEY_UNKNOWN");
  }
}

TEST_F(CertificateAuthorizationTest, NoMethodIsReachedWithACertificateOfAnotherAuthority) {
  MakeAuthority("stranger");
  MakeClient("admin", "/O=Lab/CN=admin", "stranger");
  ANNEAL_ASSERT_OK(Bind("CN=admin,O=Lab", v1::Key::ROLE_ADMIN).status());
  const std::shared_ptr<grpc::Channel> channel = ChannelAs("admin");
  for (const Method* method : ApiMethods()) {
    EXPECT_THAT(MethodCaller::Call(channel, *method, *caller_.NewRequest(*method), testing::kNoKey,
                                   /*wait_for_connection=*/false),
                StatusIs(absl::StatusCode::kUnavailable))
        << method->full_name();
  }
}

TEST_F(CertificateAuthorizationTest, RolesFindWhatIsTheirProjectsOwnAndNothingElse) {
  testing::OwnedResources owned({.channel = ChannelOf("owner", v1::Key::ROLE_USER),
                                 .job = NewRequest(1),
                                 .model_uri = absl::StrCat("file://", folder_, "/shared/tiny"),
                                 .storage_root = options_.storage_root,
                                 .admin_socket = options_.admin_socket});
  const std::map<Role, std::shared_ptr<grpc::Channel>> own = {
      {Role::kViewer, ChannelOf("viewer", v1::Key::ROLE_VIEWER)},
      {Role::kUser, ChannelOf("user", v1::Key::ROLE_USER)},
      {Role::kAdmin, ChannelOf("admin", v1::Key::ROLE_ADMIN)}};
  const std::map<Role, std::shared_ptr<grpc::Channel>> foreign = {
      {Role::kViewer, ChannelOf("foreign_viewer", v1::Key::ROLE_VIEWER, "other")},
      {Role::kUser, ChannelOf("foreign_user", v1::Key::ROLE_USER, "other")},
      {Role::kAdmin, ChannelOf("foreign_admin", v1::Key::ROLE_ADMIN, "other")}};
  for (const Method* method : ApiMethods()) {
    const testing::Need& need = NeedOf(*method);
    if (*need.resource == '\0' || !owned.CanMake(need.resource)) continue;
    for (const auto& [role, channel] : own) {
      SCOPED_TRACE(absl::StrCat(method->full_name(), " by ", RoleName(role)));
      const std::string resource = owned.Make(need.resource);
      const absl::Status stranger = CallWith(foreign.at(role), *method, resource);
      const absl::Status status = CallWith(channel, *method, resource);
      if (!IsAllowed(role, need.right)) {
        EXPECT_EQ(ReasonOf(stranger), "ROLE_TOO_WEAK") << stranger;
        EXPECT_EQ(ReasonOf(status), "ROLE_TOO_WEAK") << status;
        continue;
      }
      if (!need.is_shared) {
        EXPECT_THAT(stranger, StatusIs(absl::StatusCode::kNotFound));
      }
      EXPECT_TRUE(status.ok() || ReasonOf(status) == "WRONG_STATE") << status;
    }
  }
}

}  // namespace
}  // namespace anneal
