#include "coordinator/api/resource_names.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/random.h"
#include "common/rpc/status.h"

namespace anneal {

absl::StatusOr<std::string> JobIdOf(absl::string_view name) {
  absl::string_view id = name;
  if (absl::ConsumePrefix(&id, "jobs/") && IsUlid(id)) return std::string(id);
  return InvalidField("name", absl::StrCat("'", name.substr(0, 100), "' is not jobs/{ulid}"));
}

absl::StatusOr<std::string> WorkerNameOf(absl::string_view name) {
  absl::string_view worker = name;
  if (absl::ConsumePrefix(&worker, "workers/") && !worker.empty()) return std::string(worker);
  return InvalidField("name", absl::StrCat("'", name.substr(0, 100), "' is not workers/{worker}"));
}

absl::StatusOr<std::string> KeyIdOf(absl::string_view name) {
  absl::string_view id = name;
  if (absl::ConsumePrefix(&id, "keys/") && IsUlid(id)) return std::string(id);
  return InvalidField("name", absl::StrCat("'", name.substr(0, 100), "' is not keys/{ulid}"));
}

}  // namespace anneal
