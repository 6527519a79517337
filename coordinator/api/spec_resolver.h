#pragma once
// From a user's spec to a resolved job with everything it reads found.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "anneal/internal/catalog.pb.h"
#include "anneal/v1/job.pb.h"
#include "common/format/model_directory.h"
#include "common/spec/issues.h"
#include "common/spec/origins.h"
#include "common/spec/resolve.h"
#include "coordinator/api/allowed_roots.h"
#include "coordinator/catalog/catalog.h"
#include "coordinator/catalog/resource_store.h"
#include "coordinator/fleet/fleet_roster.h"

namespace anneal {

// Purpose: what CheckJob and CreateJob have in common: looks up the model, the files and the fleet,
// then asks common/spec. Owner: Coordinator. Thread-safe. Slow for a model given by path that was
// not seen before: its content is hashed.
class SpecResolver {
 public:
  struct Parts {
    ResourceStore& resources;
    const Catalog& catalog;
    const FleetRoster& roster;
    const AllowedRoots& roots;
    FileHashCache& hashes;
    // Where outputs of jobs lie.
    std::string storage_root;
  };
  struct Result {
    spec::Resolution resolution;
    // Of the resolved job's values; in it there are none.
    spec::Origins origins;
    // Complete if the resolution is ok().
    internal::JobInputs inputs;
  };

  explicit SpecResolver(Parts parts) : parts_(std::move(parts)) {}

  // What is wrong with the spec, missing models and files included, is among the issues; an error
  // means that the looking up itself failed.
  absl::StatusOr<Result> Resolve(const std::string& project, const v1::JobSpec& spec,
                                 absl::Time now);

 private:
  struct FoundModel {
    std::string dir;
    std::shared_ptr<const spec::ModelFacts> facts;
    // What may not be deleted while the job lives; empty for a path.
    std::string resource;
  };
  absl::StatusOr<FoundModel> FindModel(const std::string& project, const std::string& reference);
  // Of an imported model, from its config.
  absl::StatusOr<FoundModel> DescribeImported(const internal::ModelRecord& record);
  absl::StatusOr<FoundModel> Describe(const ModelDirectory& directory, const std::string& source_id,
                                      const FileOpener& open);
  absl::StatusOr<internal::DataFile> FindFile(const std::string& project,
                                              const std::string& reference, absl::Time now,
                                              internal::JobInputs* inputs);
  // Where an allowed path leads. Believed for a moment: jobs that come in at once read the same
  // data, and workers open nothing that has taken its place.
  absl::StatusOr<AllowedRoots::Place> FindPlace(const std::string& path, absl::Time now);
  // Of the newest roster; summed up once for each.
  spec::ClusterFacts FactsOfFleet();
  static spec::ClusterFacts FactsOf(const FleetRoster::Workers& workers);
  // What follows from the config alone.
  static spec::ModelFacts FactsOf(const ModelConfig& config);

  const Parts parts_;

  absl::Mutex mu_;
  std::shared_ptr<const FleetRoster::Workers> roster_ ABSL_GUARDED_BY(mu_);
  spec::ClusterFacts facts_ ABSL_GUARDED_BY(mu_);
  // Imported models by folder, with the hash that they had: whoever imports another under the same
  // name gives it another hash.
  std::map<std::string, FoundModel> imported_ ABSL_GUARDED_BY(mu_);
  // By path, those found since then.
  std::map<std::string, AllowedRoots::Place> places_ ABSL_GUARDED_BY(mu_);
  absl::Time places_since_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
};

}  // namespace anneal
