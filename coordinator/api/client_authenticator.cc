#include "coordinator/api/client_authenticator.h"

#include <vector>

#include "absl/strings/string_view.h"
#include "common/rpc/peer_address.h"
#include "grpc/grpc_security_constants.h"
#include "grpcpp/security/auth_context.h"

namespace anneal {

absl::StatusOr<Caller> ClientAuthenticator::Identify(const grpc::ServerContextBase& context) const {
  // gRPC sets it from certificates that it has verified, and never from what a call carries.
  const std::vector<grpc::string_ref> subjects =
      context.auth_context()->FindPropertyValues(GRPC_X509_SUBJECT_PROPERTY_NAME);
  if (subjects.size() != 1 || ApiKeyAuthenticator::CarriesKey(context))
    return known_.Identify(context);
  return known_.IdentifyCertificate({subjects[0].data(), subjects[0].size()});
}

absl::Status ClientAuthenticator::Admit(const Caller& caller) const {
  return limits_.AdmitRequest(caller);
}

absl::Status ClientAuthenticator::AdmitUnknown(const grpc::ServerContextBase& context) const {
  return limits_.AdmitUnknown(PeerHost(context.peer()));
}

absl::Status WorkerAuthenticator::AdmitUnknown(const grpc::ServerContextBase& context) const {
  return limits_.AdmitUnknown(PeerHost(context.peer()));
}

}  // namespace anneal
