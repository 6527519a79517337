#include "coordinator/api/spec_resolver.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/format/model_config.h"
#include "common/format/model_tensors.h"
#include "common/rpc/status.h"
#include "common/spec/references.h"
#include "common/storage/layout.h"
#include "coordinator/api/model_source.h"

namespace anneal {
namespace {

// So many imported models are remembered: a few kilobytes each.
constexpr size_t kMostRemembered = 256;
// Places of files are looked up so often at most.
constexpr absl::Duration kPlaceAge = absl::Milliseconds(100);
// Specs are kept in memory and in the catalog as long as their jobs.
constexpr size_t kMaxSpecBytes = 256 << 10;

// Errors that say something about the spec, not about the coordinator.
bool IsAboutTheSpec(const absl::Status& status) {
  return status.code() == absl::StatusCode::kNotFound ||
         status.code() == absl::StatusCode::kPermissionDenied ||
         status.code() == absl::StatusCode::kInvalidArgument ||
         status.code() == absl::StatusCode::kFailedPrecondition;
}

absl::Status NoSuch(absl::string_view what) {
  return WithReason(absl::NotFoundError(absl::StrCat("there is no ", what)), "NOT_FOUND");
}

}  // namespace

spec::ModelFacts SpecResolver::FactsOf(const ModelConfig& config) {
  spec::ModelFacts facts;
  facts.family = config.family;
  facts.max_positions = config.max_positions;
  facts.config = config;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (const LinearModule& linear : BlockLinears(config, layer))
      facts.linear_modules.push_back(linear.name);
  }
  return facts;
}

absl::StatusOr<SpecResolver::FoundModel> SpecResolver::Describe(const ModelDirectory& directory,
                                                                const std::string& source_id,
                                                                const FileOpener& open) {
  spec::ModelFacts facts = FactsOf(directory.config);
  facts.has_chat_template = directory.has_chat_template;
  facts.source_id = source_id;
  ANNEAL_ASSIGN_OR_RETURN(facts.content_hash, ModelContentHash(directory, parts_.hashes, open));
  return FoundModel{directory.path, std::make_shared<const spec::ModelFacts>(std::move(facts)), ""};
}

absl::StatusOr<SpecResolver::FoundModel> SpecResolver::FindModel(const std::string& project,
                                                                 const std::string& reference) {
  if (spec::IsFileUri(reference)) {
    ANNEAL_ASSIGN_OR_RETURN(const ModelDirectory directory,
                            ReadAllowedModel(parts_.roots, spec::PathOfFileUri(reference)));
    return Describe(directory, "", parts_.roots.opener());
  }
  FoundModel model;
  if (spec::IsJobModelName(reference)) {
    const std::vector<std::string> names = absl::StrSplit(reference, '/');
    const std::shared_ptr<const internal::JobRecord> job =
        parts_.catalog.FindJob(project, names[1]);
    if (job == nullptr || job->job().output_model() != reference)
      return NoSuch(absl::StrCat("model ", reference));
    ANNEAL_ASSIGN_OR_RETURN(
        const ModelDirectory directory,
        ReadModelDirectory(absl::StrCat(parts_.storage_root, "/", OutputPath(names[1]), "/model")));
    ANNEAL_ASSIGN_OR_RETURN(model, Describe(directory, reference, OpenRegularFile));
    model.dir = absl::StrCat(OutputPath(names[1]), "/model");
    model.resource = absl::StrCat("jobs/", names[1]);
    return model;
  }
  const absl::string_view id = absl::StripPrefix(reference, "models/");
  ANNEAL_ASSIGN_OR_RETURN(const std::shared_ptr<const internal::ModelRecord> record,
                          parts_.resources.GetModel(project, id));
  ANNEAL_ASSIGN_OR_RETURN(model, DescribeImported(*record));
  model.resource = reference;
  return model;
}

absl::StatusOr<SpecResolver::FoundModel> SpecResolver::DescribeImported(
    const internal::ModelRecord& record) {
  const std::string dir = ModelPath(record.project(), record.id());
  {
    absl::MutexLock lock(&mu_);
    const auto known = imported_.find(dir);
    if (known != imported_.end() && known->second.facts->content_hash == record.content_hash() &&
        known->second.facts->source_id == record.source_id()) {
      return known->second;
    }
  }
  ANNEAL_ASSIGN_OR_RETURN(const ModelConfig config,
                          ReadModelConfig(absl::StrCat(parts_.storage_root, "/", dir)));
  spec::ModelFacts facts = FactsOf(config);
  facts.family = record.family();
  facts.max_positions = record.max_positions();
  facts.has_chat_template = record.has_chat_template();
  // Imported models never change, so the hash taken then holds.
  facts.content_hash = record.content_hash();
  facts.source_id = record.source_id();
  const FoundModel model{dir, std::make_shared<const spec::ModelFacts>(std::move(facts)), ""};
  absl::MutexLock lock(&mu_);
  if (imported_.size() >= kMostRemembered) imported_.clear();
  imported_[dir] = model;
  return model;
}

absl::StatusOr<AllowedRoots::Place> SpecResolver::FindPlace(const std::string& path,
                                                            absl::Time now) {
  {
    absl::MutexLock lock(&mu_);
    if (now < places_since_ || now >= places_since_ + kPlaceAge ||
        places_.size() >= kMostRemembered) {
      places_.clear();
      places_since_ = now;
    }
    if (const auto known = places_.find(path); known != places_.end()) return known->second;
  }
  ANNEAL_ASSIGN_OR_RETURN(AllowedRoots::Place place, parts_.roots.Find(path));
  absl::MutexLock lock(&mu_);
  places_[path] = place;
  return place;
}

absl::StatusOr<internal::DataFile> SpecResolver::FindFile(const std::string& project,
                                                          const std::string& reference,
                                                          absl::Time now,
                                                          internal::JobInputs* inputs) {
  internal::DataFile file;
  if (spec::IsFileUri(reference)) {
    ANNEAL_ASSIGN_OR_RETURN(AllowedRoots::Place place,
                            FindPlace(spec::PathOfFileUri(reference), now));
    file.set_path(std::move(place.path));
    file.set_root(std::move(place.root));
    file.set_display_name(spec::PathOfFileUri(reference));
    return file;
  }
  ANNEAL_ASSIGN_OR_RETURN(
      const internal::FileRecord record,
      parts_.resources.GetFile(project, absl::StripPrefix(reference, "files/")));
  file.set_path(BlobPath(record.sha256()));
  file.set_display_name(record.display_name());
  if (std::find(inputs->resources().begin(), inputs->resources().end(), reference) ==
      inputs->resources().end()) {
    inputs->add_resources(reference);
  }
  return file;
}

spec::ClusterFacts SpecResolver::FactsOfFleet() {
  std::shared_ptr<const FleetRoster::Workers> roster = parts_.roster.workers();
  absl::MutexLock lock(&mu_);
  if (roster != roster_) {
    facts_ = FactsOf(*roster);
    roster_ = std::move(roster);
  }
  return facts_;
}

spec::ClusterFacts SpecResolver::FactsOf(const FleetRoster::Workers& workers) {
  spec::ClusterFacts facts;
  const auto smaller = [](auto known, decltype(known) other) {
    return known == 0 ? other : std::min(known, other);
  };
  for (const v1::Worker& worker : workers) {
    // One that has not found this coordinator yet still counts: it most likely will.
    if (worker.state() == v1::Worker::STATE_LOST && worker.has_last_sync_time()) continue;
    for (const v1::Slot& slot : worker.slots()) {
      if (slot.accelerator() == v1::ResourceSpec::ACCELERATOR_GPU) {
        ++facts.gpu_slots;
        facts.threads_per_gpu_slot = smaller(facts.threads_per_gpu_slot, slot.threads());
        facts.bytes_per_gpu_slot = smaller(facts.bytes_per_gpu_slot, slot.memory_bytes());
      } else {
        facts.cpu_bf16 = slot.bf16() && (facts.cpu_slots == 0 || facts.cpu_bf16);
        ++facts.cpu_slots;
        facts.threads_per_cpu_slot = smaller(facts.threads_per_cpu_slot, slot.threads());
        facts.bytes_per_cpu_slot = smaller(facts.bytes_per_cpu_slot, slot.memory_bytes());
      }
    }
  }
  return facts;
}

absl::StatusOr<SpecResolver::Result> SpecResolver::Resolve(const std::string& project,
                                                           const v1::JobSpec& spec,
                                                           absl::Time now) {
  if (const size_t bytes = spec.ByteSizeLong(); bytes > kMaxSpecBytes) {
    return InvalidField("spec", absl::StrCat("has ", bytes, " bytes; at most ", kMaxSpecBytes,
                                             ": name fewer files, or put them together"));
  }
  Result result;
  spec::IssueList lookups;
  spec::ResolveInputs inputs;
  inputs.template_time = now;
  inputs.cluster = FactsOfFleet();

  FoundModel model;
  // A reference of the wrong form is common/spec's to report.
  if (spec::ModelReferenceProblem(spec.model()).empty()) {
    absl::StatusOr<FoundModel> found = FindModel(project, spec.model());
    if (found.ok()) {
      model = *std::move(found);
      inputs.model = model.facts.get();
      result.inputs.set_model_dir(model.dir);
      result.inputs.set_model_source_id(model.facts->source_id);
      if (!model.resource.empty()) result.inputs.add_resources(model.resource);
    } else if (IsAboutTheSpec(found.status())) {
      lookups.AddError("BAD_MODEL", "model", found.status().message());
    } else {
      return found.status();
    }
  }
  const auto find_files =
      [&](absl::string_view field,
          const google::protobuf::RepeatedPtrField<std::string>& references,
          google::protobuf::RepeatedPtrField<internal::DataFile>* files) -> absl::Status {
    for (int i = 0; i < references.size(); ++i) {
      if (!spec::FileReferenceProblem(references[i]).empty()) continue;
      absl::StatusOr<internal::DataFile> found =
          FindFile(project, references[i], now, &result.inputs);
      if (found.ok()) {
        inputs.file_display_names[references[i]] = found->display_name();
        *files->Add() = *std::move(found);
      } else if (IsAboutTheSpec(found.status())) {
        lookups.AddError("BAD_FILE", absl::StrCat(field, "[", i, "]"), found.status().message());
      } else {
        return found.status();
      }
    }
    return absl::OkStatus();
  };
  ANNEAL_RETURN_IF_ERROR(
      find_files("data.train", spec.data().train(), result.inputs.mutable_train_files()));
  ANNEAL_RETURN_IF_ERROR(find_files("data.validation.files", spec.data().validation().files(),
                                    result.inputs.mutable_validation_files()));

  result.resolution = spec::ResolveJob(spec, inputs, &result.origins);
  std::vector<v1::Issue> issues = std::move(lookups).Release();
  issues.insert(issues.end(), result.resolution.issues.begin(), result.resolution.issues.end());
  result.resolution.issues = std::move(issues);
  return result;
}

}  // namespace anneal
