#pragma once
// Who calls: API keys in the `authorization: Bearer KEY` metadata, mapped to project and creator.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"

namespace anneal {

struct Caller {
  // What the caller may see: everything of other projects is NOT_FOUND for it.
  std::string project;
  // Recorded with what the caller makes.
  std::string creator;
};

// Asked once by every handler of a public service, first of all. (gRPC's own AuthMetadataProcessor works only with TLS, and
// server interceptors cannot refuse a call.) Thread-safe.
class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // UNAUTHENTICATED if the call carries no credential that is known.
  virtual absl::StatusOr<Caller> CallerOf(const grpc::ServerContextBase& context) const = 0;
};

// Keys from a text file that only the service's user may read. One key a line, `#` starts a comment:
//
//   KEY PROJECT CREATOR
//
// Keys have at least 20 characters; project and creator are [A-Za-z0-9._@-]{1,64}. Only SHA-256 digests are kept in memory, and
// all are compared in constant time, so that neither timing nor a core dump tells a key.
class ApiKeyAuthenticator : public Authenticator {
 public:
  // Errors name file and line, never a key.
  static absl::StatusOr<std::unique_ptr<ApiKeyAuthenticator>> FromFile(const std::string& path);

  absl::StatusOr<Caller> CallerOf(const grpc::ServerContextBase& context) const override;

 private:
  struct Entry {
    std::string key_digest;
    Caller caller;
  };
  explicit ApiKeyAuthenticator(std::vector<Entry> entries) : entries_(std::move(entries)) {}
  static absl::StatusOr<std::vector<Entry>> ParseEntries(absl::string_view text, const std::string& path);

  const std::vector<Entry> entries_;
};

}  // namespace anneal
