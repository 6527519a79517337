#pragma once
// The part of a job that says how it is run, not what it computes: checkpoints, limits, retries,
// priority. Private to this folder.

#include "anneal/v1/job.pb.h"
#include "common/spec/field_rules.h"
#include "common/spec/issues.h"

namespace anneal::spec {

// Fills the defaults in and checks the limits.
void ResolveOperation(v1::JobSpec* spec, FieldRules* fields, IssueList* issues);

}  // namespace anneal::spec
