#include "coordinator/api/resource_names.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/random.h"
#include "common/rpc/status.h"
#include "common/spec/references.h"
#include "common/storage/layout.h"
#include "coordinator/fleet/fleet.h"

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
  // Not quoted: where a key's name is asked for, people give the key.
  return InvalidField("name", "is not keys/{ulid}, as ListKeys has it");
}

bool IsResourceName(absl::string_view text) {
  const size_t slash = text.find('/');
  if (slash == absl::string_view::npos) return false;
  const absl::string_view kind = text.substr(0, slash);
  const absl::string_view id = text.substr(slash + 1);
  if (kind == "files" || kind == "keys") return IsUlid(id);
  if (kind == "models") return spec::IsModelName(text);
  if (kind == "workers") return IsWorkerName(id);
  if (kind != "jobs") return false;
  absl::string_view path = id.substr(std::min(id.find('/'), id.size()));
  return IsUlid(id.substr(0, id.size() - path.size())) &&
         (path.empty() || (absl::ConsumePrefix(&path, "/artifacts/") && IsSafeRelativePath(path)));
}

}  // namespace anneal
