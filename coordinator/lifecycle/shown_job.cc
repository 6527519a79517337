#include "coordinator/lifecycle/shown_job.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/spec/message_json.h"
#include "common/spec/resolve.h"

namespace anneal {
namespace {

using Origins = std::map<std::string, std::string, std::less<>>;

Origins Parse(absl::string_view packed) {
  Origins origins;
  for (const absl::string_view line : absl::StrSplit(packed, '\n', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    origins.emplace(parts.first, parts.second);
  }
  return origins;
}

std::string Format(const Origins& origins) {
  std::string packed;
  for (const auto& [path, origin] : origins) absl::StrAppend(&packed, path, "=", origin, "\n");
  return packed;
}

// The origins of `record`'s values, whatever form they are in.
template <typename Map>
void Unpack(const internal::JobRecord& record, Map* origins) {
  const Origins known = Parse(record.origins());
  spec::ForEachLeaf(record.job().resolved().spec(),
                    [&](const std::string& path, const google::protobuf::Message&,
                        const google::protobuf::FieldDescriptor&) {
                      if (known.find(path) == known.end()) (*origins)[path] = spec::kOriginDefault;
                    });
  for (const auto& [path, origin] : known) {
    if (!origin.empty()) (*origins)[path] = origin;
  }
}

bool IsPacked(const internal::JobRecord& record) { return !record.origins().empty(); }

}  // namespace

void KeepOrigins(const spec::Origins& origins, internal::JobRecord* record) {
  Origins packed;
  for (const auto& [path, origin] : origins) {
    if (origin != spec::kOriginDefault) packed.emplace(path, origin);
  }
  record->set_origins(Format(packed));
}

void PackOrigins(internal::JobRecord* record) {
  if (IsPacked(*record) || record->job().resolved().origins().empty()) return;
  v1::ResolvedJob& resolved = *record->mutable_job()->mutable_resolved();
  Origins packed(resolved.origins().begin(), resolved.origins().end());
  resolved.clear_origins();
  spec::ForEachLeaf(resolved.spec(), [&](const std::string& path, const google::protobuf::Message&,
                                         const google::protobuf::FieldDescriptor&) {
    const auto found = packed.find(path);
    if (found == packed.end()) {
      packed[path] = "";
    } else if (found->second == spec::kOriginDefault) {
      packed.erase(found);  // it follows from the value
    }
  });
  record->set_origins(Format(packed));
}

std::string OriginOf(const internal::JobRecord& record, absl::string_view path) {
  Origins origins(record.job().resolved().origins().begin(),
                  record.job().resolved().origins().end());
  if (IsPacked(record)) Unpack(record, &origins);
  const auto found = origins.find(path);
  return found == origins.end() ? std::string() : found->second;
}

void SetOrigin(absl::string_view path, absl::string_view origin, internal::JobRecord* record) {
  PackOrigins(record);
  Origins origins = Parse(record->origins());
  origins[std::string(path)] = std::string(origin);
  record->set_origins(Format(origins));
}

v1::ResolvedJob ShownResolvedJob(const internal::JobRecord& record) {
  v1::ResolvedJob resolved = record.job().resolved();
  if (IsPacked(record)) Unpack(record, resolved.mutable_origins());
  return resolved;
}

void ShowJob(const internal::JobRecord& record, v1::Job* job) {
  *job = record.job();
  if (IsPacked(record)) Unpack(record, job->mutable_resolved()->mutable_origins());
}

void ShowJob(const internal::JobRecord& record, const spec::Origins& origins, v1::Job* job) {
  *job = record.job();
  spec::PutOrigins(origins, job->mutable_resolved());
}

}  // namespace anneal
