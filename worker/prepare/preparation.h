#pragma once
// A PrepareTask from beginning to end: data files to prepared data sets and a data report.

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"

namespace anneal::prepare {

// How the caller watches and stops a preparation. Called by Prepare's own thread, after every few
// rows.
struct PrepareHooks {
  // What is being done, in words with numbers: "tokenising rows 1,280/5,000 (25 %)".
  std::function<void(const std::string& phase)> on_phase = [](const std::string&) {};
  std::function<bool()> stop_requested = [] { return false; };
};

struct Prepared {
  protocol::PreparedReport report;
  Json data_report;
};

// Checks every row of `task` and writes its prepared data sets, or, if any row is bad, a data
// report alone. Bad rows are no error of this function: see report.error_count. Paths in the task
// are used as they are.
//
// The files are read twice: once to hash them, which finds a cached result, and to choose the
// held-out rows; then to encode them on task.threads threads. What is written depends on files,
// model and options only. `output_dir` is published by rename, after anything that an earlier
// attempt left there is removed; if it is empty nothing is written.
//
// INVALID_ARGUMENT and NOT_FOUND for a task, model or file that cannot be used, CANCELLED when told
// to stop, ABORTED if a file changed while it was read.
absl::StatusOr<Prepared> Prepare(const protocol::PrepareTask& task, const PrepareHooks& hooks = {});

// Names of the files in output_dir.
inline constexpr char kTrainName[] = "train.safetensors";
inline constexpr char kValidationName[] = "validation.safetensors";
inline constexpr char kDataReportName[] = "data_report.json";

}  // namespace anneal::prepare
