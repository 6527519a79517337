#include "common/spec/origins.h"

namespace anneal::spec {

void PutOrigins(const Origins& origins, v1::ResolvedJob* job) {
  auto& map = *job->mutable_origins();
  map.clear();
  for (const auto& [path, origin] : origins) map[path].assign(origin.data(), origin.size());
}

}  // namespace anneal::spec
