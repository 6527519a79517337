#pragma once
// What is said of a job without the words of its data, to be handed to others.

#include "anneal/v1/job.pb.h"

namespace anneal::cli {

// Issues within data files keep their code, place and advice; what quotes rows (their messages and
// fields, and the first of them in the error of a job that failed for its data) is left out.
void LeaveDataOut(v1::Job& job);
void LeaveDataOut(v1::JobEvent& event);

}  // namespace anneal::cli
