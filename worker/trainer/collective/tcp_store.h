#pragma once
// The rendezvous of one generation: c10d's TCPStore, served by rank 0.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/trainer/collective/key_value_store.h"

namespace anneal::trainer {

// Rank 0 serves before it loads the model, so that the others find it at once; the socket is bound
// to the given address alone (c10d by itself would listen on all). Has no authentication: networks
// isolate it. Ends with its owner.
class TcpStore : public KeyValueStore {
 public:
  // `bind_address`: an IPv4 or IPv6 address, not a name. Any free port.
  static absl::StatusOr<std::unique_ptr<TcpStore>> Serve(const std::string& bind_address);
  // `address`: what the serving side's address() says. Waits until it can be reached.
  static absl::StatusOr<std::unique_ptr<TcpStore>> Connect(const std::string& address,
                                                           absl::Duration timeout);
  ~TcpStore() override;

  // "127.0.0.1:40123" or "[::1]:40123".
  const std::string& address() const { return address_; }

  absl::Status Set(absl::string_view key, absl::string_view value) override;
  absl::StatusOr<std::string> Get(absl::string_view key, absl::Duration timeout) override;

 private:
  struct Impl;  // keeps c10d's headers out of this one
  TcpStore(std::string address, std::unique_ptr<Impl> impl);

  const std::string address_;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace anneal::trainer
