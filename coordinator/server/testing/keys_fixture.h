#pragma once
// A whole coordinator, and keys of every role in every state.

#include <memory>
#include <string>

#include "anneal/v1/key_service.grpc.pb.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal::testing {

class KeysFixture : public CoordinatorFixture {
 protected:
  std::unique_ptr<v1::KeyService::Stub> LocalKeys() {
    return v1::KeyService::NewStub(*MakeChannel({.target = "unix:" + options_.admin_socket}));
  }
  absl::StatusOr<v1::CreateKeyResponse> MakeKey(
      v1::Key::Role role, const std::string& project,
      absl::Duration lifetime = absl::InfiniteDuration()) {
    v1::CreateKeyRequest request;
    request.set_role(role);
    request.set_project(project);
    request.set_creator("someone");
    if (lifetime != absl::InfiniteDuration()) {
      request.mutable_expire_time()->set_seconds(
          absl::ToUnixSeconds(Clock::Real().TimeNow() + lifetime));
    }
    return Call(*LocalKeys(), &v1::KeyService::Stub::CreateKey, request, "");
  }
  std::string SecretOf(v1::Key::Role role, const std::string& project = "vision") {
    absl::StatusOr<v1::CreateKeyResponse> made = MakeKey(role, project);
    EXPECT_THAT(made, IsOk());
    return made->secret();
  }
  absl::Status List(const std::string& key) {
    return Call(*jobs_, &Jobs::ListJobs, v1::ListJobsRequest(), key.c_str()).status();
  }
  std::string RevokedSecret(v1::Key::Role role) {
    absl::StatusOr<v1::CreateKeyResponse> made = MakeKey(role, "vision");
    EXPECT_THAT(made, IsOk());
    v1::RevokeKeyRequest revoke;
    revoke.set_name(made->key().name());
    EXPECT_THAT(Call(*LocalKeys(), &v1::KeyService::Stub::RevokeKey, revoke, ""), IsOk());
    return made->secret();
  }
  std::string ExpiredSecret(v1::Key::Role role) {
    absl::StatusOr<v1::CreateKeyResponse> made = MakeKey(role, "vision", absl::Seconds(2));
    EXPECT_THAT(made, IsOk());
    const absl::Time patience = absl::Now() + absl::Seconds(20);
    while (ReasonOf(List(made->secret())) != "API_KEY_EXPIRED" && absl::Now() < patience) continue;
    return made->secret();
  }
};

}  // namespace anneal::testing
