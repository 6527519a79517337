#pragma once
// The children's reports (common/protocol) as messages of the API.

#include "anneal/v1/issue.pb.h"
#include "anneal/v1/job.pb.h"
#include "common/protocol/messages.h"

namespace anneal {

v1::Issue IssueFrom(const protocol::IssueReport& report);
v1::EvaluationPoint EvaluationFrom(const protocol::EvaluationReport& report);
v1::DataSummary DataSummaryFrom(const protocol::PreparedReport& report);
v1::JobResult ResultFrom(const protocol::ResultReport& report);
v1::StepMetrics StepMetricsFrom(const protocol::StepReport& report, int64_t generation);

}  // namespace anneal
