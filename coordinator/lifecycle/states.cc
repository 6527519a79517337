#include "coordinator/lifecycle/states.h"

#include "absl/strings/strip.h"

namespace anneal {
namespace {

struct Transition {
  v1::JobState from, to;
};

// All ways but those to CANCELLING and FAILED, which IsLegalTransition adds.
constexpr Transition kTransitions[] = {
    {v1::JOB_STATE_PENDING, v1::JOB_STATE_PREPARING},
    {v1::JOB_STATE_PENDING, v1::JOB_STATE_PAUSED},
    {v1::JOB_STATE_PREPARING, v1::JOB_STATE_PENDING},
    {v1::JOB_STATE_PREPARING, v1::JOB_STATE_VALIDATED},
    {v1::JOB_STATE_PREPARING, v1::JOB_STATE_QUEUED},
    {v1::JOB_STATE_PREPARING, v1::JOB_STATE_PAUSED},
    {v1::JOB_STATE_VALIDATED, v1::JOB_STATE_QUEUED},
    {v1::JOB_STATE_QUEUED, v1::JOB_STATE_STARTING},
    {v1::JOB_STATE_QUEUED, v1::JOB_STATE_PAUSED},
    {v1::JOB_STATE_STARTING, v1::JOB_STATE_RUNNING},
    {v1::JOB_STATE_STARTING, v1::JOB_STATE_RECOVERING},
    {v1::JOB_STATE_STARTING, v1::JOB_STATE_PAUSED},
    {v1::JOB_STATE_STARTING, v1::JOB_STATE_QUEUED},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_EXPORTING},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_PAUSING},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_PREEMPTING},
    {v1::JOB_STATE_RUNNING, v1::JOB_STATE_RECOVERING},
    {v1::JOB_STATE_PAUSING, v1::JOB_STATE_PAUSED},
    {v1::JOB_STATE_PAUSING, v1::JOB_STATE_EXPORTING},
    {v1::JOB_STATE_PAUSED, v1::JOB_STATE_QUEUED},
    {v1::JOB_STATE_PAUSED, v1::JOB_STATE_PENDING},
    {v1::JOB_STATE_PREEMPTING, v1::JOB_STATE_QUEUED},
    {v1::JOB_STATE_PREEMPTING, v1::JOB_STATE_EXPORTING},
    {v1::JOB_STATE_PREEMPTING, v1::JOB_STATE_PAUSING},
    {v1::JOB_STATE_RECOVERING, v1::JOB_STATE_STARTING},
    {v1::JOB_STATE_RECOVERING, v1::JOB_STATE_QUEUED},
    {v1::JOB_STATE_RECOVERING, v1::JOB_STATE_PAUSED},
    {v1::JOB_STATE_EXPORTING, v1::JOB_STATE_RECOVERING},
    {v1::JOB_STATE_EXPORTING, v1::JOB_STATE_SUCCEEDED},
    {v1::JOB_STATE_CANCELLING, v1::JOB_STATE_CANCELLED},
};

}  // namespace

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

bool IsLegalTransition(v1::JobState from, v1::JobState to) {
  const bool live = !IsTerminal(from) && from != v1::JOB_STATE_UNSPECIFIED;
  if (to == v1::JOB_STATE_CANCELLING || to == v1::JOB_STATE_FAILED)
    return live && from != v1::JOB_STATE_CANCELLING;
  for (const Transition& transition : kTransitions) {
    if (transition.from == from && transition.to == to) return true;
  }
  return false;
}

bool HasTrainers(v1::JobState state) {
  return state == v1::JOB_STATE_STARTING || state == v1::JOB_STATE_RUNNING ||
         state == v1::JOB_STATE_EXPORTING || state == v1::JOB_STATE_PAUSING ||
         state == v1::JOB_STATE_PREEMPTING;
}

std::string StateName(v1::JobState state) {
  return std::string(absl::StripPrefix(v1::JobState_Name(state), "JOB_STATE_"));
}

}  // namespace anneal
