#pragma once
// Who the API's clients are, and how often they may call.

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/rpc/authentication.h"
#include "coordinator/api/project_limits.h"

namespace anneal {

// Purpose: knows a client by the API key that its call carries or, without one, by the certificate
// that its connection has shown; and holds callers to their request rates. Owner: Coordinator, for
// the API's addresses only: certificates of the fleet are of another authority, whose subjects mean
// nobody here. Thread-safe.
class ClientAuthenticator : public Authenticator {
 public:
  // Both outlive it.
  ClientAuthenticator(const ApiKeyAuthenticator& known, ProjectLimits& limits)
      : known_(known), limits_(limits) {}

  absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const override;
  absl::Status Recheck(const Caller& caller) const override { return known_.Recheck(caller); }

 private:
  absl::Status Admit(const Caller& caller) const override;
  absl::Status AdmitUnknown(const grpc::ServerContextBase& context) const override;

  const ApiKeyAuthenticator& known_;
  ProjectLimits& limits_;
};

// The same for the fleet: workers are known by their keys alone, and those that are may call as
// often as they must. Thread-safe.
class WorkerAuthenticator : public Authenticator {
 public:
  // Both outlive it.
  WorkerAuthenticator(const ApiKeyAuthenticator& known, ProjectLimits& limits)
      : known_(known), limits_(limits) {}

  absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const override {
    return known_.Identify(context);
  }
  absl::Status Recheck(const Caller& caller) const override { return known_.Recheck(caller); }

 private:
  absl::Status AdmitUnknown(const grpc::ServerContextBase& context) const override;

  const ApiKeyAuthenticator& known_;
  ProjectLimits& limits_;
};

}  // namespace anneal
