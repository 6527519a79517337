#pragma once
// The states of a job and the legal ways between them: the only place that knows them.
//
//   PENDING -> PREPARING -> QUEUED -> STARTING -> RUNNING -> EXPORTING -> SUCCEEDED
//   PREPARING -> VALIDATED (held for a look) -> QUEUED
//   PREPARING -> PENDING when its worker is lost
//   RUNNING -> PAUSING -> PAUSED -> QUEUED
//   PENDING, PREPARING, QUEUED, STARTING, RECOVERING -> PAUSED directly: there is nothing to save
//   PAUSED -> PENDING when its data is not prepared yet
//   RUNNING -> PREEMPTING -> QUEUED, or PAUSING when its user pauses it meanwhile
//   STARTING -> QUEUED when its slots are wanted back
//   PAUSING, PREEMPTING -> EXPORTING when the last step was done already
//   STARTING, RUNNING, EXPORTING -> RECOVERING -> STARTING | QUEUED
//   any live state -> CANCELLING -> CANCELLED
//   any live state but CANCELLING -> FAILED

#include <string>

#include "anneal/v1/job.pb.h"

namespace anneal {

// SUCCEEDED, FAILED, CANCELLED: these never change.
bool IsTerminal(v1::JobState state);

// Whether a job in `from` may go to `to`. A state never goes to itself.
bool IsLegalTransition(v1::JobState from, v1::JobState to);

// STARTING, RUNNING, EXPORTING, PAUSING, PREEMPTING: trainers are wanted, and hold slots.
bool HasTrainers(v1::JobState state);

// "RUNNING" for JOB_STATE_RUNNING.
std::string StateName(v1::JobState state);

}  // namespace anneal
