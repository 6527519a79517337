#pragma once
// Connections of their own, as many clients have them.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"

namespace anneal::load {

struct TlsFiles {
  std::string ca_file;
  // Of the client; both or none.
  std::string certificate_file, key_file;
};

// Opens `count` connections over TLS to `target` and waits until all are there. Unlike MakeChannel
// it reads the files once, and no two channels share a connection. UNAVAILABLE after `timeout`.
absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> Connect(const std::string& target,
                                                                    const TlsFiles& files,
                                                                    int count,
                                                                    absl::Duration timeout);

}  // namespace anneal::load
