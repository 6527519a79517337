#include "worker/supervisor/run_folder.h"

#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr JsonLimits kLimits = {.max_bytes = 16u << 20, .max_depth = 32};

// The integer field `name`; INVALID_ARGUMENT if there is none.
absl::StatusOr<int64_t> IntegerField(const Json& json, const char* name) {
  const auto field = json.is_object() ? json.find(name) : json.end();
  if (field == json.end() || !field->is_number_integer()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": expected an integer"));
  }
  return field->get<int64_t>();
}

}  // namespace

absl::StatusOr<ProcessIdentity> IdentifyProcess(int64_t pid) {
  const std::string path = absl::StrCat("/proc/", pid, "/stat");
  ANNEAL_ASSIGN_OR_RETURN(std::string text, ReadSmallFile(path));
  // The second field is the program's name in brackets and may hold spaces and brackets; the rest
  // starts with field 3.
  const size_t name_end = text.rfind(')');
  const std::vector<std::string> fields =
      absl::StrSplit(text.substr(std::min(text.size(), name_end + 2)), ' ');
  ProcessIdentity process{.pid = pid};
  constexpr size_t kStartTime = 22 - 3;
  if (name_end == std::string::npos || fields.size() <= kStartTime ||
      !absl::SimpleAtoi(fields[kStartTime], &process.start_time)) {
    return absl::InternalError(absl::StrCat(path, " is not understood"));
  }
  return process;
}

bool IsAlive(const ProcessIdentity& process) {
  const absl::StatusOr<ProcessIdentity> now = IdentifyProcess(process.pid);
  return now.ok() && *now == process;
}

ProcessEnd ProcessEndFromWaitStatus(int wait_status) {
  if (WIFSIGNALED(wait_status)) return {.exit_code = -1, .signal = WTERMSIG(wait_status)};
  return {.exit_code = WEXITSTATUS(wait_status)};
}

absl::StatusOr<RunFolder> RunFolder::Create(const std::string& runs_dir,
                                            const protocol::TaskKey& key, const TaskFile& task) {
  RunFolder folder(absl::StrCat(runs_dir, "/", protocol::TaskName(key)), key);
  if (::mkdir(folder.path().c_str(), 0700) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", folder.path()));
  }
  Json json = {{"storage_root", task.storage_root}, {"slots", task.slots}, {"task", task.task}};
  ANNEAL_RETURN_IF_ERROR(
      WriteFileAtomically(folder.FilePath(protocol::kTaskName), DumpJson(json) + "\n"));
  return folder;
}

absl::StatusOr<std::vector<RunFolder>> RunFolder::List(const std::string& runs_dir) {
  std::vector<RunFolder> folders;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(runs_dir, error)) {
    absl::StatusOr<RunFolder> folder = FromPath(entry.path().string());
    if (!folder.ok()) {
      ANNEAL_LOG(WARNING) << "not a run folder, left alone" << Field("path", entry.path().string());
    } else if (std::error_code ignored;
               std::filesystem::exists(folder->FilePath(protocol::kTaskName), ignored)) {
      folders.push_back(*std::move(folder));
    } else {
      ANNEAL_RETURN_IF_ERROR(folder->Remove());
    }
  }
  if (error)
    return absl::InternalError(absl::StrCat("cannot list ", runs_dir, ": ", error.message()));
  std::sort(folders.begin(), folders.end(),
            [](const RunFolder& a, const RunFolder& b) { return a.path_ < b.path_; });
  return folders;
}

absl::StatusOr<RunFolder> RunFolder::FromPath(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(protocol::TaskKey key,
                          protocol::ParseTaskName(path.substr(path.rfind('/') + 1)));
  return RunFolder(path, std::move(key));
}

std::string RunFolder::FilePath(absl::string_view name) const {
  return absl::StrCat(path_, "/", name);
}

absl::StatusOr<Json> RunFolder::ReadJson(absl::string_view name) const {
  ANNEAL_ASSIGN_OR_RETURN(std::string text, ReadSmallFile(FilePath(name), kLimits.max_bytes));
  absl::StatusOr<Json> json = ParseJson(text, kLimits);
  if (!json.ok()) return Annotate(json.status(), FilePath(name));
  return json;
}

absl::StatusOr<TaskFile> RunFolder::ReadTask() const {
  ANNEAL_ASSIGN_OR_RETURN(Json json, ReadJson(protocol::kTaskName));
  // Written by ourselves, so one message for whatever is wrong with it is enough.
  return [&]() -> absl::StatusOr<TaskFile> {
    try {
      return TaskFile{.storage_root = json.at("storage_root").get<std::string>(),
                      .slots = json.at("slots").get<std::vector<std::string>>(),
                      .task = json.at("task")};
    } catch (const Json::exception& e) {
      return absl::InvalidArgumentError(
          absl::StrCat(FilePath(protocol::kTaskName), ": ", e.what()));
    }
  }();
}

absl::StatusOr<ProcessIdentity> RunFolder::ReadProcess() const {
  ANNEAL_ASSIGN_OR_RETURN(Json json, ReadJson(protocol::kProcessName));
  ProcessIdentity process;
  ANNEAL_ASSIGN_OR_RETURN(process.pid, IntegerField(json, "pid"));
  ANNEAL_ASSIGN_OR_RETURN(process.start_time, IntegerField(json, "start_time"));
  return process;
}

absl::StatusOr<ProcessEnd> RunFolder::ReadEnd() const {
  ANNEAL_ASSIGN_OR_RETURN(Json json, ReadJson(protocol::kEndName));
  ANNEAL_ASSIGN_OR_RETURN(const int64_t exit_code, IntegerField(json, "exit_code"));
  ANNEAL_ASSIGN_OR_RETURN(const int64_t signal, IntegerField(json, "signal"));
  return ProcessEnd{.exit_code = static_cast<int>(exit_code),
                    .signal = static_cast<int>(signal),
                    .lost = json.contains("lost") && json["lost"] == true};
}

absl::StatusOr<protocol::ExitRecord> RunFolder::ReadExitRecord() const {
  ANNEAL_ASSIGN_OR_RETURN(Json json, ReadJson(protocol::kExitName));
  return protocol::ExitRecordFromJson(json);
}

absl::Status RunFolder::WriteProcess(const ProcessIdentity& process) const {
  Json json = {{"pid", process.pid}, {"start_time", process.start_time}};
  return WriteFileAtomically(FilePath(protocol::kProcessName), DumpJson(json) + "\n");
}

absl::Status RunFolder::WriteEnd(const ProcessEnd& end) const {
  Json json = {{"exit_code", end.exit_code}, {"signal", end.signal}, {"lost", end.lost}};
  return WriteFileAtomically(FilePath(protocol::kEndName), DumpJson(json) + "\n");
}

absl::Status RunFolder::Remove() const {
  std::error_code error;
  // task.json last: while it is there, List still finds the folder and the removal is tried again.
  for (const auto& entry : std::filesystem::directory_iterator(path_, error)) {
    if (entry.path().filename() != protocol::kTaskName)
      std::filesystem::remove_all(entry.path(), error);
    if (error) break;
  }
  if (!error) std::filesystem::remove_all(path_, error);
  if (error)
    return absl::InternalError(absl::StrCat("cannot remove ", path_, ": ", error.message()));
  return absl::OkStatus();
}

}  // namespace anneal
