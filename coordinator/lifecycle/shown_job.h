#pragma once
// A job as records keep it, and as the API shows it.
//
// Most of a resolved job would be the origins of its values, half a hundred paths of which nearly
// all are "default": of ten thousand waiting jobs they would be most of the coordinator's memory,
// and most of what a commit writes. So a record keeps those that are not (JobRecord.origins), and
// the rest follows from the values that are there.

#include <string>

#include "absl/strings/string_view.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/v1/job.pb.h"
#include "common/spec/origins.h"

namespace anneal {

// Gives a new record, whose resolved job names none, its origins in their short form.
void KeepOrigins(const spec::Origins& origins, internal::JobRecord* record);

// Moves the origins that `record`'s resolved job names to their short form. Nothing happens where
// they are in it already, so it may be called for records of any version.
void PackOrigins(internal::JobRecord* record);

// The origin of a value of the record's resolved job; empty for a path that it does not have.
std::string OriginOf(const internal::JobRecord& record, absl::string_view path);

// From now on that is its origin.
void SetOrigin(absl::string_view path, absl::string_view origin, internal::JobRecord* record);

// With the origin of each value, as users see it. The same before and after PackOrigins.
v1::ResolvedJob ShownResolvedJob(const internal::JobRecord& record);
void ShowJob(const internal::JobRecord& record, v1::Job* job);
// The same with origins that are known, as KeepOrigins was given them: to find them anew takes as
// long as all else that an answer needs.
void ShowJob(const internal::JobRecord& record, const spec::Origins& origins, v1::Job* job);

}  // namespace anneal
