#pragma once
// What is told of a job when it has ended.

#include <string>

#include "anneal/v1/artifact_service.pb.h"
#include "anneal/v1/job.pb.h"
#include "anneal/v1/model_service.pb.h"

namespace anneal::cli {

// Loss, exact match and choice accuracy before and after, as a table; "" if nothing was evaluated.
std::string FormatBeforeAndAfter(const v1::JobResult& result);

// The command line that serves the result of a job with vLLM. `output_folder` is the outputs' path
// on this machine or, when they have to be downloaded first, a name to put there; `base` what vLLM
// should load as the base model.
std::string VllmServeLine(const v1::Job& job, const std::string& output_folder,
                          const std::string& base);

// Why a job failed and what to do, with the end of the log where there is one.
std::string FormatFailure(const v1::Job& job);

}  // namespace anneal::cli
