#pragma once
// Ranks as threads of one process: collectives without sockets, and with delays and failures on
// demand. For tests.

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/trainer/collective/communicator.h"

namespace anneal::trainer::testing {

// Called on a rank's thread before each of its collectives; may wait, and an error fails that
// collective on all ranks.
using BeforeCollective = std::function<absl::Status(int rank, absl::string_view tag)>;

// One communicator per rank of a world. They share state, which lives until the last one is gone.
std::vector<std::unique_ptr<Communicator>> MakeInProcessWorld(int world_size,
                                                              BeforeCollective before = nullptr);

// Runs `body(communicator)` on one thread per rank and returns the first error by rank, after all
// have ended. A rank that ends with an error aborts the others.
absl::Status RunOnRanks(int world_size, const std::function<absl::Status(Communicator&)>& body,
                        BeforeCollective before = nullptr);

}  // namespace anneal::trainer::testing
