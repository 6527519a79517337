#include "coordinator/api/model_library.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/config/units.h"
#include "common/rpc/status.h"
#include "common/spec/references.h"
#include "common/storage/layout.h"
#include "coordinator/api/model_source.h"
#include "google/protobuf/util/time_util.h"

namespace anneal {
namespace {

constexpr size_t kMaxSourceIdBytes = 256;
constexpr size_t kMaxModelIdBytes = 63;

// A model id from a folder's name: "SmolLM2 135M" -> "smollm2-135m".
std::string IdFromFolder(const std::string& path) {
  std::string id =
      absl::AsciiStrToLower(path.substr(path.rfind('/') + 1)).substr(0, kMaxModelIdBytes);
  for (char& c : id) {
    const bool kept = absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_';
    if (!kept) c = '-';
  }
  return id;
}

bool IsSourceId(absl::string_view text) {
  if (text.size() > kMaxSourceIdBytes) return false;
  for (const char c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) return false;
  }
  return true;
}

}  // namespace

v1::Model ModelFrom(const internal::ModelRecord& record) {
  v1::Model model;
  model.set_name(absl::StrCat("models/", record.id()));
  model.set_family(record.family());
  model.set_parameters(record.parameters());
  model.set_size_bytes(record.size_bytes());
  model.set_content_hash(record.content_hash());
  model.set_source_id(record.source_id());
  model.set_max_positions(record.max_positions());
  model.set_has_chat_template(record.has_chat_template());
  *model.mutable_create_time() = record.create_time();
  return model;
}

absl::StatusOr<ModelLibrary::Wanted> ModelLibrary::CheckRequest(
    const std::string& project, const v1::ImportModelRequest& request) const {
  if (!spec::IsFileUri(request.source_uri())) {
    return InvalidField("source_uri",
                        "is not of the form file:///absolute/folder (without . or .. in it)");
  }
  if (!IsSourceId(request.source_id())) {
    return InvalidField("source_id", absl::StrCat("is over ", kMaxSourceIdBytes,
                                                  " bytes or holds control characters"));
  }
  Wanted wanted{.project = project, .source_id = request.source_id()};
  wanted.source = spec::PathOfFileUri(request.source_uri());
  wanted.id = request.model_id().empty() ? IdFromFolder(wanted.source) : request.model_id();
  if (!spec::IsModelId(wanted.id)) {
    return InvalidField(
        "model_id",
        absl::StrCat("'", wanted.id, "' is not [a-z0-9][a-z0-9._-]{0,62}; give one that is"));
  }
  return wanted;
}

absl::StatusOr<v1::Model> ModelLibrary::Import(const std::string& project,
                                               const v1::ImportModelRequest& request,
                                               absl::string_view call) {
  ANNEAL_ASSIGN_OR_RETURN(const Wanted wanted, CheckRequest(project, request));
  ANNEAL_ASSIGN_OR_RETURN(const ModelDirectory source,
                          ReadAllowedModel(parts_.allowed_roots, wanted.source));

  const absl::StatusOr<std::shared_ptr<const internal::ModelRecord>> known =
      parts_.resources.GetModel(project, wanted.id);
  if (known.ok()) {
    ANNEAL_RETURN_IF_ERROR(CheckSameModel(**known, wanted, source));
    return ModelFrom(**known);
  }
  if (!absl::IsNotFound(known.status())) return known.status();
  ANNEAL_RETURN_IF_ERROR(parts_.limits.AdmitStorage(project, source.size_bytes));

  absl::ReaderMutexLock publishing(&parts_.root.publishing());
  ANNEAL_ASSIGN_OR_RETURN(const std::string temporary, parts_.root.NewTemporary("import"));
  absl::StatusOr<internal::ModelRecord> record = CopyAndPublish(wanted, source, temporary);
  if (!record.ok()) {
    parts_.root.files().RemoveTree(temporary).IgnoreError();
    return record.status();
  }
  ANNEAL_RETURN_IF_ERROR(parts_.resources.PutModel(*record));
  ANNEAL_LOG(INFO) << "model imported" << Field("project", project) << Field("model", record->id())
                   << Field("content_hash", record->content_hash()) << Field("request_id", call);
  return ModelFrom(*record);
}

absl::Status ModelLibrary::CheckSameModel(const internal::ModelRecord& known, const Wanted& wanted,
                                          const ModelDirectory& source) {
  ANNEAL_ASSIGN_OR_RETURN(const std::string hash, ModelContentHash(source, parts_.source_hashes,
                                                                   parts_.allowed_roots.opener()));
  if (hash == known.content_hash() && wanted.source_id == known.source_id())
    return absl::OkStatus();
  return WithReason(
      absl::AlreadyExistsError(absl::StrCat("models/", wanted.id, " is there with other ",
                                            hash == known.content_hash() ? "source_id" : "content",
                                            "; give another model_id, or delete it first")),
      "MODEL_ID_TAKEN");
}

absl::StatusOr<internal::ModelRecord> ModelLibrary::CopyAndPublish(const Wanted& wanted,
                                                                   const ModelDirectory& source,
                                                                   const std::string& temporary) {
  ANNEAL_RETURN_IF_ERROR(CopyFiles(source, temporary));
  // What counts is the copy, whatever has happened to the source meanwhile.
  ANNEAL_ASSIGN_OR_RETURN(const ModelDirectory copy, ReadModelDirectory(temporary));
  FileHashCache hashes(parts_.clock);
  internal::ModelRecord record;
  ANNEAL_ASSIGN_OR_RETURN(*record.mutable_content_hash(), ModelContentHash(copy, hashes));
  record.set_id(wanted.id);
  record.set_project(wanted.project);
  record.set_family(copy.config.family);
  record.set_parameters(copy.parameters);
  record.set_size_bytes(copy.size_bytes);
  record.set_source_id(wanted.source_id);
  record.set_max_positions(static_cast<int32_t>(copy.config.max_positions));
  record.set_has_chat_template(copy.has_chat_template);
  *record.mutable_create_time() = google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
      absl::ToUnixNanos(parts_.clock.TimeNow()));

  const std::string path = ModelPath(wanted.project, wanted.id);
  ANNEAL_RETURN_IF_ERROR(parts_.root.MoveToTrash(path));
  ANNEAL_RETURN_IF_ERROR(parts_.root.Publish(temporary, path));
  return record;
}

absl::Status ModelLibrary::CopyFiles(const ModelDirectory& source,
                                     const std::string& target) const {
  FileSystem& files = parts_.root.files();
  ANNEAL_ASSIGN_OR_RETURN(const int64_t free, files.FreeBytes(parts_.root.path()));
  if (free < source.size_bytes) {
    return WithReason(absl::ResourceExhaustedError(
                          absl::StrCat("the model has ", FormatBytes(source.size_bytes),
                                       ", the storage only ", FormatBytes(free), " free")),
                      "STORAGE_FULL");
  }
  ANNEAL_RETURN_IF_ERROR(files.MakeFolders(target));
  for (const ModelFile& file : source.files) {
    // Checked once more as it is opened, since links can change.
    ANNEAL_ASSIGN_OR_RETURN(const UniqueFd open,
                            parts_.allowed_roots.Open(absl::StrCat(source.path, "/", file.name)));
    ANNEAL_RETURN_IF_ERROR(files.CopyOpenFile(open.get(), absl::StrCat(target, "/", file.name)));
  }
  return absl::OkStatus();
}

absl::Status ModelLibrary::Delete(const std::string& project, const std::string& id) {
  ANNEAL_RETURN_IF_ERROR(parts_.resources.DeleteModel(project, id));
  return parts_.root.MoveToTrash(ModelPath(project, id));
}

}  // namespace anneal
