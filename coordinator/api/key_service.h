#pragma once
// anneal.v1.KeyService.

#include "absl/status/status.h"
#include "anneal/v1/key_service.grpc.pb.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/rpc/authentication.h"
#include "coordinator/catalog/key_store.h"

namespace anneal {

// Purpose: makes, lists and revokes API keys. Owner: Coordinator, one for each way in: `gate` says
// who may call, `known` learns of the changes. Thread-safe.
class KeyServiceImpl : public v1::KeyService::Service {
 public:
  struct Parts {
    const Authenticator& gate;
    ApiKeyAuthenticator& known;
    KeyStore& store;
    Clock& clock;
    Random& random;  // the operating system's
  };

  explicit KeyServiceImpl(const Parts& parts) : parts_(parts) {}

  grpc::Status CreateKey(grpc::ServerContext* context, const v1::CreateKeyRequest* request,
                         v1::CreateKeyResponse* response) override;
  grpc::Status ListKeys(grpc::ServerContext* context, const v1::ListKeysRequest* request,
                        v1::ListKeysResponse* response) override;
  grpc::Status RevokeKey(grpc::ServerContext* context, const v1::RevokeKeyRequest* request,
                         v1::Key* response) override;

 private:
  absl::Status Create(const grpc::ServerContext& context, const v1::CreateKeyRequest& request,
                      v1::CreateKeyResponse* response);
  absl::Status List(const grpc::ServerContext& context, const v1::ListKeysRequest& request,
                    v1::ListKeysResponse* response);
  absl::Status Revoke(const grpc::ServerContext& context, const v1::RevokeKeyRequest& request,
                      v1::Key* response);

  const Parts parts_;
};

// Lets `known` in for all keys of the store that are valid, and for none that was revoked. What the
// store says of a key goes before what `known` has from elsewhere.
absl::Status LoadKeys(KeyStore& store, ApiKeyAuthenticator& known);

// Takes every caller for an admin: for a socket that only the service's own account can open.
class LocalAdminAuthenticator : public Authenticator {
 public:
  absl::StatusOr<Caller> Identify(const grpc::ServerContextBase& context) const override;
  absl::Status Recheck(const Caller&) const override { return absl::OkStatus(); }
};

}  // namespace anneal
