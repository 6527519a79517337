#pragma once
// Why a job is where it is, for whoever is asked about it.

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "anneal/v1/job.pb.h"
#include "common/format/json.h"

namespace anneal::cli {

// What it waits for or why it failed and since when; how each attempt ended and whose failure that
// was; warnings; what was done again and what it cost. `events` are all of the job's, in order.
// Pure.
std::string FormatExplanation(const v1::Job& job, const std::vector<v1::JobEvent>& events,
                              absl::Time now);

// The same for programs: the job's state, the events of attempts that ended and of warnings, and
// its usage.
Json ExplanationJson(const v1::Job& job, const std::vector<v1::JobEvent>& events);

}  // namespace anneal::cli
