#pragma once
// Jobs by id, as the loop and the published snapshot hold them.

#include <map>
#include <memory>
#include <string>

#include "anneal/internal/catalog.pb.h"

namespace anneal {

// Records are replaced, never written, so a copy of the table is a snapshot.
using JobTable = std::map<std::string, std::shared_ptr<const internal::JobRecord>, std::less<>>;

}  // namespace anneal
