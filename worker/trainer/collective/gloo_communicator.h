#pragma once
// CPU collectives between processes: Gloo, through c10d's ProcessGroupGloo.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/collective/key_value_store.h"

namespace anneal::trainer {

struct GlooOptions {
  int rank = 0;
  int world_size = 2;
  std::string data_address;  // of this node; never a host name, which may resolve to loopback on
                             // one node and not on another
  absl::Duration timeout = absl::Minutes(10);
};

// Joins the others; returns when all are connected. `store` must outlive the communicator.
// All-gather runs over all-to-all, which is twice as fast as Gloo's own. Abort frees this rank's
// waiting caller only; the others run into their timeout, or notice that the connection is gone
// when the process ends.
absl::StatusOr<std::unique_ptr<Communicator>> ConnectGloo(const GlooOptions& options,
                                                          KeyValueStore& store);

}  // namespace anneal::trainer
