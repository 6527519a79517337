#pragma once
// A whole coordinator over real TLS, and clients with certificates.

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "anneal/v1/key_service.grpc.pb.h"
#include "coordinator/server/testing/coordinator_fixture.h"

namespace anneal::testing {

inline constexpr char kNoKey[] = "";

// Files of the temporary folder are named NAME.pem and NAME.key. "authority" is the one whose
// certificates clients may show.
class TlsCoordinatorFixture : public CoordinatorFixture {
 protected:
  void SetUp() override {
    CoordinatorFixture::SetUp();
    MakeAuthority("authority");
    OpenSsl(absl::StrCat("req -x509 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 ",
                         "-keyout ", In("server.key"), " -out ", In("server.pem"), " ", kNewKey));
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
                  const std::string& authority = "authority") {
    OpenSsl(absl::StrCat("req -new -subj ", subject, " -keyout ", In(name), ".key -out ", In(name),
                         ".csr ", kNewKey));
    OpenSsl(absl::StrCat("x509 -req -days 1 -in ", In(name), ".csr -CA ", In(authority),
                         ".pem -CAkey ", In(authority), ".key -CAcreateserial -out ", In(name),
                         ".pem 2>/dev/null"));
  }

  // Connects with this client's certificate; with none if empty.
  std::shared_ptr<grpc::Channel> ChannelAs(const std::string& client) {
    ChannelOptions options{.target = coordinator_->api_addresses().front(),
                           .tls = true,
                           .tls_ca_file = In("server.pem")};
    if (!client.empty()) {
      options.tls_certificate_file = In(client + ".pem");
      options.tls_key_file = In(client + ".key");
    }
    return *MakeChannel(options);
  }

  std::unique_ptr<v1::KeyService::Stub> LocalKeys() {
    return v1::KeyService::NewStub(*MakeChannel({.target = "unix:" + options_.admin_socket}));
  }
  // Says what certificates of this subject stand for.
  absl::StatusOr<v1::CreateKeyResponse> Bind(const std::string& subject, v1::Key::Role role,
                                             const std::string& project = "vision",
                                             absl::Duration lifetime = absl::InfiniteDuration()) {
    v1::CreateKeyRequest request;
    request.set_role(role);
    request.set_project(project);
    request.set_creator("bob");
    request.set_certificate_subject(subject);
    if (lifetime != absl::InfiniteDuration()) {
      request.mutable_expire_time()->set_seconds(
          absl::ToUnixSeconds(Clock::Real().TimeNow() + lifetime));
    }
    return Call(*LocalKeys(), &v1::KeyService::Stub::CreateKey, request, kNoKey);
  }
  void Revoke(const v1::Key& key) {
    v1::RevokeKeyRequest revoke;
    revoke.set_name(key.name());
    ANNEAL_ASSERT_OK(Call(*LocalKeys(), &v1::KeyService::Stub::RevokeKey, revoke, kNoKey).status());
  }

 private:
  static constexpr char kNewKey[] =
      "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 2>/dev/null";
};

}  // namespace anneal::testing
