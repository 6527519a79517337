#pragma once
// What anneal doctor prints.

#include <string>

#include "anneal/v1/cluster_service.pb.h"

namespace anneal::cli {

// A line for each check, then what to do about those that are not well.
std::string FormatChecks(const v1::CheckFleetResponse& found);

}  // namespace anneal::cli
