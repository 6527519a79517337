#pragma once
// Lists that the service gives page after page, as a whole.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/anneal/client.h"

namespace anneal::cli {

// All events and steps of "jobs/{job}", in order.
absl::StatusOr<std::vector<v1::JobEvent>> ReadEvents(Client& client, const std::string& job);
absl::StatusOr<std::vector<v1::StepMetrics>> ReadSteps(Client& client, const std::string& job);

// All workers, by name.
absl::StatusOr<v1::ListWorkersResponse> ReadWorkers(Client& client);

}  // namespace anneal::cli
