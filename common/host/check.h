#pragma once
// What a check has found, as users see it (anneal.v1.Check).

#include "absl/strings/string_view.h"
#include "anneal/v1/cluster_service.pb.h"

namespace anneal {

// Without the machine, which those fill in who know it. `measured` says what was found, `advice`
// what to do about it.
v1::Check OkCheck(absl::string_view name, absl::string_view measured);
v1::Check WarningCheck(absl::string_view name, absl::string_view measured,
                       absl::string_view advice);
v1::Check FailedCheck(absl::string_view name, absl::string_view measured, absl::string_view advice);

}  // namespace anneal
