#pragma once
// The worker's side of a run folder (docs/formats/run_folder.md): what the daemon and the keeper
// keep on disk about one child.

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"
#include "common/protocol/run_folder_layout.h"

namespace anneal {

// task.json: what the child was made for.
struct TaskFile {
  std::string storage_root;
  std::vector<std::string> slots;  // held from before the start until the process has ended
  Json task;                       // PrepareTask or TrainTask
};

// process.json: one process for ever; a later process with its number has another start time.
struct ProcessIdentity {
  int64_t pid = 0;
  int64_t start_time = 0;  // field 22 of /proc/<pid>/stat
  auto operator<=>(const ProcessIdentity&) const = default;
};
// NOT_FOUND when there is no such process (any more).
absl::StatusOr<ProcessIdentity> IdentifyProcess(int64_t pid);
bool IsAlive(const ProcessIdentity& process);

// end.json: how the process ended.
struct ProcessEnd {
  int exit_code = 0;  // -1 if killed by `signal`
  int signal = 0;
  bool lost = false;  // unseen, together with an earlier keeper
};
// From waitpid's status.
ProcessEnd ProcessEndFromWaitStatus(int wait_status);

// A name for one folder; the files are the state. Copyable, no lock: each file has one writer, see
// the format's page.
class RunFolder {
 public:
  // Makes the folder and task.json. ALREADY_EXISTS if there is one.
  static absl::StatusOr<RunFolder> Create(const std::string& runs_dir, const protocol::TaskKey& key,
                                          const TaskFile& task);
  // All folders below `runs_dir`, in order of name; what has no task.json yet never had a process
  // and is removed, what is not a run folder is left alone and logged.
  static absl::StatusOr<std::vector<RunFolder>> List(const std::string& runs_dir);
  // INVALID_ARGUMENT unless the folder's name is that of a task.
  static absl::StatusOr<RunFolder> FromPath(const std::string& path);

  const protocol::TaskKey& key() const { return key_; }
  const std::string& path() const { return path_; }
  std::string FilePath(absl::string_view name) const;

  // NOT_FOUND while the file is not there, INVALID_ARGUMENT if it is not as it should be.
  absl::StatusOr<TaskFile> ReadTask() const;
  absl::StatusOr<ProcessIdentity> ReadProcess() const;
  absl::StatusOr<ProcessEnd> ReadEnd() const;
  absl::StatusOr<protocol::ExitRecord> ReadExitRecord() const;

  absl::Status WriteProcess(const ProcessIdentity& process) const;
  absl::Status WriteEnd(const ProcessEnd& end) const;

  // Removes folder and files. The process must have ended.
  absl::Status Remove() const;

 private:
  RunFolder(std::string path, protocol::TaskKey key)
      : path_(std::move(path)), key_(std::move(key)) {}
  absl::StatusOr<Json> ReadJson(absl::string_view name) const;

  std::string path_;
  protocol::TaskKey key_;
};

}  // namespace anneal
