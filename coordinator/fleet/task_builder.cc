#include "coordinator/fleet/task_builder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "common/spec/message_json.h"
#include "common/spec/resolve.h"
#include "common/storage/layout.h"
#include "common/storage/open_beneath.h"
#include "coordinator/lifecycle/checkpoints.h"
#include "coordinator/lifecycle/shown_job.h"
#include "google/protobuf/util/time_util.h"

namespace anneal {
namespace {

// "COSINE" for SCHEDULE_COSINE: the children know no protobuf.
std::string WithoutPrefix(const std::string& name, absl::string_view prefix) {
  return std::string(absl::StripPrefix(name, prefix));
}

// In the order in which they count: where several names mean a module, the longest does.
template <typename Entry, typename Map>
std::vector<Entry> Pattern(const Map& pattern) {
  std::vector<Entry> entries;
  for (const auto& [module, value] : pattern) entries.push_back({module, value});
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(b.module.size(), a.module) < std::pair(a.module.size(), b.module);
  });
  return entries;
}

std::vector<protocol::InputFile> InputFiles(
    const google::protobuf::RepeatedPtrField<internal::DataFile>& files) {
  std::vector<protocol::InputFile> inputs;
  for (const internal::DataFile& file : files) {
    protocol::InputFile& input =
        inputs.emplace_back(protocol::InputFile{file.path(), file.display_name()});
    // Of the storage root, where nobody else writes.
    if (!absl::StartsWith(file.path(), "/")) continue;
    // Also what an earlier version has recorded, without its root, is a resolved path.
    input.path = RootedPath(file.root().empty() ? "/" : file.root(), file.path());
  }
  return inputs;
}

}  // namespace

protocol::PrepareTask MakePrepareTask(const internal::JobRecord& record, int threads) {
  const v1::ResolvedJob& resolved = record.job().resolved();
  const v1::DataSpec& data = resolved.spec().data();
  protocol::PrepareTask task;
  task.job = record.id();
  task.generation = record.prepare().attempt();
  task.model_dir = record.inputs().model_dir();
  task.model_content_hash = resolved.model_content_hash();
  task.train_files = InputFiles(record.inputs().train_files());
  task.validation_files = InputFiles(record.inputs().validation_files());
  if (task.validation_files.empty()) {
    task.validation_fraction = data.validation().fraction();
    task.validation_is_default =
        OriginOf(record, "data.validation.fraction") == spec::kOriginDefault;
    task.min_validation_rows = task.validation_is_default ? spec::kDefaultMinValidationRows : 0;
  }
  task.max_length = data.max_length();
  task.over_length =
      WithoutPrefix(v1::DataSpec::OverLength_Name(data.over_length()), "OVER_LENGTH_");
  task.train_on = WithoutPrefix(v1::DataSpec::TrainOn_Name(data.train_on()), "TRAIN_ON_");
  task.template_time_unix_seconds = resolved.template_time().seconds();
  task.seed = resolved.spec().training().seed();
  task.threads = threads;
  task.output_dir = PreparedPath(record.id());
  task.cache_dir = PreparedCachePath();
  return task;
}

protocol::TrainTask MakeTrainTask(const internal::JobRecord& record, int rank) {
  const v1::ResolvedJob& resolved = record.job().resolved();
  const v1::JobSpec& spec = resolved.spec();
  const v1::TrainingSpec& training = spec.training();
  protocol::TrainTask task;
  task.job = record.id();
  task.generation = record.train().generation();
  task.rank = rank;
  task.world_size = record.train().ranks_size();
  task.device =
      spec.resources().accelerator() == v1::ResourceSpec::ACCELERATOR_GPU ? "cuda" : "cpu";
  task.device_uuid = record.train().ranks(rank).device_uuid();
  task.threads = spec.resources().threads_per_slot();
  task.model_dir = record.inputs().model_dir();
  task.model_content_hash = resolved.model_content_hash();
  task.model_source_id = record.inputs().model_source_id();
  task.train_data = record.prepared().train_data();
  task.validation_data = record.prepared().validation_data();
  task.data_report = record.prepared().data_report();
  task.output_dir = StagedOutputPath(record.id(), task.generation);
  task.resolved_job_json = DumpJson(spec::MessageToJson(ShownResolvedJob(record)));
  if (spec.method().has_lora()) {
    const v1::LoraMethod& lora = spec.method().lora();
    task.lora = protocol::LoraOptions{
        .rank = lora.rank(),
        .alpha = lora.alpha(),
        .dropout = lora.dropout(),
        .target_modules = {lora.target_modules().begin(), lora.target_modules().end()},
        .use_rslora = lora.use_rslora(),
        .rank_pattern = Pattern<protocol::ModuleRank>(lora.rank_pattern()),
        .alpha_pattern = Pattern<protocol::ModuleAlpha>(lora.alpha_pattern()),
        .modules_to_save = {lora.modules_to_save().begin(), lora.modules_to_save().end()}};
  }
  task.epochs = training.epochs();
  task.max_steps = training.max_steps();
  task.batch_size = training.batch_size();
  task.learning_rate = training.learning_rate();
  task.schedule = WithoutPrefix(v1::TrainingSpec::Schedule_Name(training.schedule()), "SCHEDULE_");
  task.warmup_ratio = training.warmup_ratio();
  task.max_grad_norm = training.max_grad_norm();
  task.weight_decay = training.weight_decay();
  task.adam_beta1 = training.adam_beta1();
  task.adam_beta2 = training.adam_beta2();
  task.adam_epsilon = training.adam_epsilon();
  task.seed = training.seed();
  task.microbatch_tokens = training.microbatch_tokens();
  task.logical_shards = training.logical_shards();
  task.precision =
      WithoutPrefix(v1::TrainingSpec::Precision_Name(training.precision()), "PRECISION_");
  task.reduction =
      WithoutPrefix(v1::TrainingSpec::Reduction_Name(training.reduction()), "REDUCTION_");
  task.evaluate_every_steps = spec.evaluation().every_steps();
  task.evaluation_max_rows = spec.evaluation().max_rows();
  task.export_merged = spec.output().merged();
  task.sharding = WithoutPrefix(v1::TrainingSpec::Sharding_Name(training.sharding()), "SHARDING_");
  task.checkpoint_root = CheckpointsPath(record.id());
  task.checkpoint_seconds =
      google::protobuf::util::TimeUtil::DurationToMilliseconds(spec.checkpoint().every()) / 1e3;
  for (const internal::CheckpointRecord& checkpoint : ResumableCheckpoints(record)) {
    // Also when the task is written anew, after a restart of ours, it says what it said at first.
    const bool own = !record.checkpoints().empty();
    if (own && checkpoint.generation() >= task.generation) continue;
    task.resume_from.push_back({checkpoint.step(), checkpoint.dir(), checkpoint.manifest_sha256()});
  }
  return task;
}

}  // namespace anneal
