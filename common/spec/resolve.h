#pragma once
// JobSpec -> ResolvedJob: every default filled with its origin, every limit checked, all problems
// named at once.
//
// This is the only place that states defaults and limits of a job; proto/anneal/v1/job.proto
// documents them. Pure: the same input gives the same output, so CheckJob, CreateJob and the
// command line agree. Thread-safe.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "anneal/v1/issue.pb.h"
#include "anneal/v1/job.pb.h"
#include "common/format/model_config.h"
#include "common/spec/origins.h"

namespace anneal::spec {

// Without `validation`, this part of the rows is held out, but at least so many rows; none below so
// many rows in all (origins["data.validation.fraction"] is then "default", and prepare applies the
// two row counts).
inline constexpr double kDefaultValidationFraction = 0.05;
inline constexpr int64_t kDefaultMinValidationRows = 10;
inline constexpr int64_t kMinRowsForDefaultValidation = 50;

// What the spec has to fit, read from the base model's directory.
struct ModelFacts {
  std::string family;         // model_type of config.json
  int64_t max_positions = 0;  // 0 = unknown, not checked
  bool has_chat_template = true;
  std::string content_hash;
  std::string source_id;
  // Full names of the linear layers but the head ("model.layers.0.self_attn.q_proj"). Empty =
  // unknown, not checked.
  std::vector<std::string> linear_modules;
  // Absent = no memory plan.
  std::optional<ModelConfig> config;
};

// The fleet at this moment; all zero before any worker has registered.
struct ClusterFacts {
  int64_t gpu_slots = 0;
  int64_t cpu_slots = 0;
  // The smallest share of cores among slots of that kind. 0 = unknown.
  int32_t threads_per_gpu_slot = 0;
  int32_t threads_per_cpu_slot = 0;
  // The smallest memory among slots of that kind. 0 = unknown.
  int64_t bytes_per_gpu_slot = 0;
  int64_t bytes_per_cpu_slot = 0;
  // Every CPU slot has bf16 dot products.
  bool cpu_bf16 = false;
};

struct ResolveInputs {
  // Null while the model is not known: then nothing that depends on it is checked.
  const ModelFacts* model = nullptr;
  ClusterFacts cluster;
  // The clock that chat templates may ask for; becomes ResolvedJob.template_time.
  absl::Time template_time;
  // "files/{file}" -> the name the user gave it; used for the default display name only.
  std::map<std::string, std::string> file_display_names;
};

struct Resolution {
  // Complete if `issues` holds no error; else as far as it could be filled.
  v1::ResolvedJob job;
  std::vector<v1::Issue> issues;

  bool ok() const;
};

// Whether the model, files and so on that the spec names exist is the caller's to check.
Resolution ResolveJob(const v1::JobSpec& spec, const ResolveInputs& inputs);
// The same with the origins beside the job instead of in it: for who keeps them in another form.
Resolution ResolveJob(const v1::JobSpec& spec, const ResolveInputs& inputs, Origins* origins);

// For people, one "path  value  (origin)" a line, in the order of job.proto.
std::string FormatResolvedJob(const v1::ResolvedJob& job);

}  // namespace anneal::spec
