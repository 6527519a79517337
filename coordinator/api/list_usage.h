#pragma once
// ListUsage, without the call around it.

#include "absl/status/status.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/rpc/authentication.h"
#include "coordinator/catalog/usage_ledger.h"

namespace anneal {

// What `caller`, whose right to ask has been checked, may see. INVALID_ARGUMENT for days that are
// none or end before they begin, and as ParsePageRequest.
absl::Status ListUsage(UsageLedger& ledger, const Caller& caller,
                       const v1::ListUsageRequest& request, v1::ListUsageResponse* response);

}  // namespace anneal
