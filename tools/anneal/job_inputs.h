#pragma once
// Local files and folders in a job: found, sent to the service, and replaced by their names there.

#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "anneal/v1/job.pb.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "tools/anneal/client.h"

namespace anneal::cli {

// Imports a local model folder; only where the coordinator sees this machine's files.
// FAILED_PRECONDITION says what else to do.
absl::StatusOr<v1::Model> ImportLocalModel(Client& client, const std::string& folder,
                                           const std::string& model_id,
                                           const std::string& source_id, Random& random);

struct InputOptions {
  // What relative paths are relative to.
  std::string base_folder;
  // Send and import nothing: files that the coordinator can read for itself are named by file://
  // URIs. Where it cannot, data files are sent all the same, for nothing could be checked without
  // them.
  bool dry_run = false;
  // Gets a line for everything that is sent or imported, and an upload bar if the width is not 0.
  std::ostream& progress;
  int terminal_width = 0;
};

// Replaces local paths in `spec` (model, data.train, data.validation.files). References of the
// service (files/{ulid}, file:///…, jobs/{ulid}/artifacts/model, and models/{id} unless a folder of
// that name with a config.json is there) stay as they are.
absl::Status SendLocalInputs(Client& client, const InputOptions& options, Clock& clock,
                             Random& random, v1::JobSpec* spec);

}  // namespace anneal::cli
