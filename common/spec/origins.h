#pragma once
// Where the values of a resolved job come from.

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "anneal/v1/job.pb.h"

namespace anneal::spec {

// Values of ResolvedJob.origins.
inline constexpr char kOriginUser[] = "user";
inline constexpr char kOriginDefault[] = "default";
inline constexpr char kOriginModel[] = "model";
inline constexpr char kOriginCluster[] = "cluster";

// One of the above for each leaf of a complete spec, by its path ("training.epochs"). What each job
// is resolved with, where ResolvedJob.origins, a map of allocated texts, takes several times as
// long.
using Origins = absl::flat_hash_map<std::string, absl::string_view>;

// Makes them those of `job`.
void PutOrigins(const Origins& origins, v1::ResolvedJob* job);

}  // namespace anneal::spec
