#include "common/base/version.h"

namespace anneal {

absl::string_view Version() { return ANNEAL_VERSION; }

}  // namespace anneal
