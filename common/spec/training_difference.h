#pragma once
// Whether one job's checkpoint may be carried on by another.

#include <string>

#include "anneal/v1/job.pb.h"

namespace anneal::spec {

// The path of the first field that decides what is computed and has not the same value in both, or
// empty. Names, resources, sharding, checkpoints, limits, retries, priority and output do not
// decide it.
std::string TrainingDifference(const v1::ResolvedJob& one, const v1::ResolvedJob& other);

}  // namespace anneal::spec
