#include "tools/anneal/history.h"

#include "common/base/status.h"

namespace anneal::cli {
namespace {

using Jobs = v1::FineTuningService::StubInterface;

}  // namespace

absl::StatusOr<std::vector<v1::JobEvent>> ReadEvents(Client& client, const std::string& job) {
  std::vector<v1::JobEvent> events;
  v1::ListJobEventsRequest request;
  request.set_name(job);
  request.set_page_size(1000);
  do {
    ANNEAL_ASSIGN_OR_RETURN(const v1::ListJobEventsResponse page,
                            client.Call(&Jobs::ListJobEvents, request));
    events.insert(events.end(), page.events().begin(), page.events().end());
    request.set_after_sequence(page.next_sequence());
  } while (request.after_sequence() != 0);
  return events;
}

absl::StatusOr<std::vector<v1::StepMetrics>> ReadSteps(Client& client, const std::string& job) {
  std::vector<v1::StepMetrics> steps;
  v1::ListStepMetricsRequest request;
  request.set_name(job);
  request.set_page_size(1000);
  do {
    ANNEAL_ASSIGN_OR_RETURN(const v1::ListStepMetricsResponse page,
                            client.Call(&Jobs::ListStepMetrics, request));
    steps.insert(steps.end(), page.steps().begin(), page.steps().end());
    request.set_after_step(page.next_step());
  } while (request.after_step() != 0);
  return steps;
}

absl::StatusOr<v1::ListWorkersResponse> ReadWorkers(Client& client) {
  v1::ListWorkersResponse all;
  v1::ListWorkersRequest request;
  request.set_page_size(1000);
  do {
    ANNEAL_ASSIGN_OR_RETURN(const v1::ListWorkersResponse page,
                            client.Call(&v1::ClusterService::StubInterface::ListWorkers, request));
    all.mutable_workers()->MergeFrom(page.workers());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return all;
}

}  // namespace anneal::cli
