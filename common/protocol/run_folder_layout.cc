#include "common/protocol/run_folder_layout.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/random.h"

namespace anneal::protocol {

absl::string_view TaskKindName(TaskKind kind) {
  return kind == TaskKind::kPrepare ? "prepare" : "train";
}

std::string TaskName(const TaskKey& key) {
  return absl::StrCat(key.job, "-g", key.generation, "-", TaskKindName(key.kind), key.rank);
}

absl::StatusOr<TaskKey> ParseTaskName(absl::string_view name) {
  TaskKey key;
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '-');
  if (parts.size() == 3 && IsUlid(parts[0])) {
    key.job = std::string(parts[0]);
    absl::string_view generation = parts[1];
    absl::string_view rank = parts[2];
    if (absl::ConsumePrefix(&rank, "prepare"))
      key.kind = TaskKind::kPrepare;
    else
      absl::ConsumePrefix(&rank, "train");
    // Reading is lenient and writing is not, so comparing with what we would write refuses "g03",
    // "+3" and the like.
    if (absl::ConsumePrefix(&generation, "g") && absl::SimpleAtoi(generation, &key.generation) &&
        absl::SimpleAtoi(rank, &key.rank) && key.generation >= 0 && key.rank >= 0 &&
        TaskName(key) == name) {
      return key;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("not the name of a run folder: '",
                                                 name.substr(0, 100),
                                                 "'; expected <job>-g<generation>-train<rank>"));
}

std::vector<Field> TaskFields(const TaskKey& key) {
  std::vector<Field> fields = {Field("job", key.job), Field("kind", TaskKindName(key.kind))};
  if (key.kind == TaskKind::kPrepare) {
    fields.emplace_back("attempt", key.generation);
  } else {
    fields.emplace_back("generation", key.generation);
    fields.emplace_back("rank", key.rank);
  }
  return fields;
}

std::vector<Field> TaskFieldsOf(absl::string_view run_dir) {
  const absl::StatusOr<TaskKey> key = ParseTaskName(run_dir.substr(run_dir.rfind('/') + 1));
  return key.ok() ? TaskFields(*key) : std::vector<Field>();
}

}  // namespace anneal::protocol
