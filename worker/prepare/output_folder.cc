#include "worker/prepare/output_folder.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace anneal::prepare {
namespace {

namespace fs = std::filesystem;

absl::Status ToStatus(const std::error_code& error, absl::string_view what,
                      const std::string& path) {
  if (!error) return absl::OkStatus();
  return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot ", what, " ", path));
}

std::string ParentOf(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

}  // namespace

absl::StatusOr<OutputFolder> OutputFolder::Create(const std::string& path,
                                                  absl::string_view writer) {
  const std::string temporary = absl::StrCat(path, ".", writer, ".tmp");
  std::error_code error;
  fs::remove_all(temporary, error);
  if (!error) fs::create_directories(temporary, error);
  ANNEAL_RETURN_IF_ERROR(ToStatus(error, "create", temporary));
  return OutputFolder(path, temporary);
}

OutputFolder::OutputFolder(OutputFolder&& other) noexcept
    : path_(other.path_), temporary_(std::exchange(other.temporary_, "")) {}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

std::string OutputFolder::File(absl::string_view name) const {
  return absl::StrCat(temporary_, "/", name);
}

absl::Status OutputFolder::Write(absl::string_view name, absl::string_view content) {
  const std::string path = File(name);
  std::FILE* file = std::fopen(path.c_str(), "wbe");
  bool ok = file != nullptr;
  ok = ok && std::fwrite(content.data(), 1, content.size(), file) == content.size();
  ok = ok && std::fflush(file) == 0 && ::fsync(::fileno(file)) == 0;
  const int error = errno;
  if (file != nullptr) std::fclose(file);
  if (!ok) return absl::ErrnoToStatus(error, absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

absl::Status OutputFolder::Clear() {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(temporary_, error)) {
    if (!error) fs::remove_all(entry.path(), error);
  }
  return ToStatus(error, "clear", temporary_);
}

absl::Status OutputFolder::AddAllOf(const std::string& source) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(source, error)) {
    const fs::path target = fs::path(temporary_) / entry.path().filename();
    fs::create_hard_link(entry.path(), target, error);
    if (error) fs::copy_file(entry.path(), target, error);
    ANNEAL_RETURN_IF_ERROR(ToStatus(error, "link or copy", entry.path().string()));
  }
  return ToStatus(error, "list", source);
}

absl::Status OutputFolder::Publish(bool replace) {
  ANNEAL_RETURN_IF_ERROR(SyncFolder(temporary_));
  std::error_code error;
  if (replace) fs::remove_all(path_, error);
  if (!error) fs::rename(temporary_, path_, error);
  if (error == std::errc::directory_not_empty || error == std::errc::file_exists) {
    return absl::AlreadyExistsError(absl::StrCat(path_, " exists"));
  }
  ANNEAL_RETURN_IF_ERROR(ToStatus(error, "publish", path_));
  temporary_.clear();
  return SyncFolder(ParentOf(path_));
}

}  // namespace anneal::prepare
