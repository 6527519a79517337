#include "worker/trainer/engine/trainer.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/numeric/bits.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/plan/sharding.h"
#include "worker/trainer/checkpoint/resume.h"
#include "worker/trainer/engine/memory_question.h"
#include "worker/trainer/engine/torch_errors.h"

namespace anneal::trainer {
namespace {

constexpr absl::Duration kRankReportInterval = absl::Seconds(1);

// Field 2 of /proc/self/statm (proc(5)): resident pages.
int64_t ResidentBytes() {
  long long total = 0, resident = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  const int read = std::fscanf(file, "%lld %lld", &total, &resident);
  std::fclose(file);
  return read == 2 ? resident * sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace

absl::Status CheckTask(const protocol::TrainTask& task) {
  const auto bad = [](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat("train task: ", parts...));
  };
  if (task.world_size < 1 || task.rank < 0 || task.rank >= task.world_size) {
    return bad("rank ", task.rank, " of world_size ", task.world_size);
  }
  if (task.logical_shards < 1 ||
      !absl::has_single_bit(static_cast<uint32_t>(task.logical_shards))) {
    return bad("logical_shards ", task.logical_shards, " is not a power of two");
  }
  if (task.logical_shards % task.world_size != 0) {
    return bad("world_size ", task.world_size, " does not divide logical_shards ",
               task.logical_shards);
  }
  if (task.microbatch_tokens < 1)
    return bad("microbatch_tokens ", task.microbatch_tokens, " is below 1");
  if (task.evaluation_max_rows < 1)
    return bad("evaluation_max_rows ", task.evaluation_max_rows, " is below 1");
  if (!(task.learning_rate > 0))
    return bad("learning_rate ", task.learning_rate, " is not above 0");
  if (!(task.warmup_ratio >= 0 && task.warmup_ratio <= 1))
    return bad("warmup_ratio ", task.warmup_ratio);
  if (!(task.max_grad_norm >= 0)) return bad("max_grad_norm ", task.max_grad_norm, " is below 0");
  if (task.reduction != "FIXED_ORDER" && task.reduction != "FAST")
    return bad("reduction '", task.reduction, "'");
  if (task.precision != "FP32" && task.precision != "BF16")
    return bad("precision '", task.precision, "'");
  if (const auto sharding = ParseSharding(task.sharding); !sharding.ok())
    return bad(sharding.status().message());
  if (task.output_dir.empty()) return bad("output_dir is empty");
  if (!(task.checkpoint_seconds >= 0))
    return bad("checkpoint_seconds ", task.checkpoint_seconds, " is below 0");
  return ParseScheduleShape(task.schedule).status();
}

Trainer::Trainer(protocol::TrainTask task, Surroundings surroundings)
    : task_(std::move(task)), around_(std::move(surroundings)) {}
Trainer::~Trainer() = default;

absl::StatusOr<RunEnd> Trainer::Run() {
  absl::StatusOr<RunEnd> end = RunEnd::kFinished;
  const absl::Status status = CatchTorch(absl::StrCat("train rank ", task_.rank), [&] {
    end = RunToEnd();
    return end.status();
  });
  if (!status.ok()) return status;
  return end;
}

absl::StatusOr<RunEnd> Trainer::RunToEnd() {
  ANNEAL_RETURN_IF_ERROR(CheckTask(task_));
  ANNEAL_RETURN_IF_ERROR(Load());
  if (step_ == 0) ANNEAL_RETURN_IF_ERROR(Evaluate(0));
  ANNEAL_ASSIGN_OR_RETURN(const protocol::StopMode stop, TrainAllSteps());
  const bool paused = stop == protocol::StopMode::kPause && step_ < plan_->total_steps();
  if (checkpointer_.has_value()) {
    EnterPhase("checkpoint");
    ANNEAL_RETURN_IF_ERROR(paused ? checkpointer_->CompleteWith(step_) : checkpointer_->Complete());
  }
  ANNEAL_LOG(INFO) << "trained"
                   << Field("peak_tensor_bytes", around_.accelerator.PeakTensorBytes());
  if (!paused) ANNEAL_RETURN_IF_ERROR(WriteOutputs());
  ANNEAL_LOG(INFO) << "ended" << Field("peak_tensor_bytes", around_.accelerator.PeakTensorBytes());
  ReportRank(/*now=*/true);
  return paused ? RunEnd::kPaused : RunEnd::kFinished;
}

absl::Status Trainer::Load() {
  EnterPhase("load");
  timer_.emplace(around_.clock, around_.accelerator, around_.whereabouts);
  if (is_first_rank()) {
    ANNEAL_ASSIGN_OR_RETURN(outputs_, OutputFolder::Create(task_.output_dir));
  }
  ANNEAL_ASSIGN_OR_RETURN(decoder_, around_.load_decoder(task_, around_.accelerator));
  ANNEAL_RETURN_IF_ERROR(OpenData());
  ANNEAL_RETURN_IF_ERROR(InitialiseValues());
  ANNEAL_RETURN_IF_ERROR(Resume());
  PrepareCheckpoints();
  const auto reduction = task_.reduction == "FAST" ? Reduction::kFast : Reduction::kFixedOrder;
  train_step_.emplace(TrainStep::Parts{*decoder_, *layout_, *values_, *optimizer_, *assembler_,
                                       around_.communicator, around_.accelerator, *timer_},
                      TrainStepOptions{.seed = task_.seed,
                                       .max_grad_norm = task_.max_grad_norm,
                                       .reduction = reduction,
                                       .tokens_together = task_.microbatch_tokens});
  if (validation_data_ != nullptr) {
    ANNEAL_ASSIGN_OR_RETURN(
        evaluator_,
        Evaluator::Create(
            *validation_data_, *decoder_, *values_, around_.communicator, around_.accelerator,
            {.max_rows = task_.evaluation_max_rows, .microbatch_tokens = task_.microbatch_tokens}));
  }
  timer_->Lap(phases_.load_seconds);
  ANNEAL_LOG(INFO) << "loaded" << Field("trainable_parameters", layout_->parameters())
                   << Field("steps", plan_->total_steps()) << Field("rows", plan_->rows())
                   << Field("seconds", phases_.load_seconds)
                   << Field("numerics", around_.accelerator.NumericFingerprint());
  ANNEAL_ASSIGN_OR_RETURN(const MemoryPlan memory, PlannedMemory());
  ANNEAL_LOG(INFO) << "memory plan" << Field("total_bytes", memory.total())
                   << Field("weights", memory.weights) << Field("gathered", memory.gathered)
                   << Field("moments", memory.moments) << Field("gradients", memory.gradients)
                   << Field("exchange", memory.exchange) << Field("snapshot", memory.snapshot)
                   << Field("activations", memory.activations) << Field("working", memory.working);
  return absl::OkStatus();
}

absl::Status Trainer::OpenData() {
  const auto open =
      [&](const std::string& path) -> absl::StatusOr<std::unique_ptr<PreparedDataset>> {
    ANNEAL_ASSIGN_OR_RETURN(auto data, PreparedDataset::Open(path));
    const ModelConfig& model = decoder_->config();
    if (data->info().vocab_size > model.vocab_size ||
        data->info().longest_example > model.max_positions) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " was prepared for another model: it has ", data->info().vocab_size,
                       " token ids and rows of up to ", data->info().longest_example,
                       " tokens, the model ", model.vocab_size, " and ", model.max_positions));
    }
    return data;
  };
  ANNEAL_ASSIGN_OR_RETURN(train_data_, open(task_.train_data));
  if (!task_.validation_data.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(validation_data_, open(task_.validation_data));
  }

  std::vector<RowSize> rows;
  for (int64_t i = 0; i < train_data_->size(); ++i) {
    rows.push_back({static_cast<int32_t>(train_data_->length(i)),
                    static_cast<int32_t>(train_data_->supervised_tokens(i))});
  }
  ANNEAL_ASSIGN_OR_RETURN(plan_,
                          StepPlan::Create(std::move(rows), {.seed = task_.seed,
                                                             .batch_size = task_.batch_size,
                                                             .logical_shards = task_.logical_shards,
                                                             .epochs = task_.epochs,
                                                             .max_steps = task_.max_steps}));
  ANNEAL_ASSIGN_OR_RETURN(const ScheduleShape shape, ParseScheduleShape(task_.schedule));
  schedule_.emplace(shape, task_.learning_rate, task_.warmup_ratio, plan_->total_steps());
  assembler_.emplace([this](int64_t row) { return train_data_->Example(row); },
                     task_.microbatch_tokens);
  return absl::OkStatus();
}

absl::Status Trainer::InitialiseValues() {
  const at::Device device = around_.accelerator.device();
  const int64_t alignment = device.is_cpu() ? kCpuAlignmentBytes : kCudaAlignmentBytes;
  layout_.emplace(decoder_->units(), task_.logical_shards, alignment);
  frozen_layout_.emplace(decoder_->frozen_units(), task_.logical_shards, alignment);
  ANNEAL_ASSIGN_OR_RETURN(const Sharding sharding, ParseSharding(task_.sharding));
  values_.emplace(
      *layout_, *frozen_layout_,
      ShardedValues::Options{.sharding = sharding,
                             .compute_type = task_.precision == "BF16" ? at::kBFloat16 : at::kFloat,
                             .device = device},
      *decoder_, around_.communicator);
  optimizer_.emplace(
      *layout_, values_->part(),
      AdamWOptions{task_.adam_beta1, task_.adam_beta2, task_.adam_epsilon, task_.weight_decay},
      device);
  return values_->Initialise(task_.seed);
}

absl::Status Trainer::Resume() {
  ResumePoint point;
  if (!task_.resume_from.empty()) {
    const int shards = task_.logical_shards / values_->part().count;
    const std::vector<StateSlice> state =
        StateOf(values_->part().index * shards, (values_->part().index + 1) * shards);
    const ResumeOptions options{.storage_root = around_.storage_root,
                                .total_steps = plan_->total_steps(),
                                .numeric_fingerprint = around_.accelerator.NumericFingerprint(),
                                .device = around_.accelerator.device()};
    ANNEAL_ASSIGN_OR_RETURN(
        point, ChooseCheckpoint(task_.resume_from, options, RangesOf(state), around_.communicator));
    if (point.checkpoint.has_value()) {
      ANNEAL_RETURN_IF_ERROR(ReadState(*point.checkpoint, state));
      ANNEAL_RETURN_IF_ERROR(values_->Share("after loading"));
    }
    step_ = point.report.step;
    ANNEAL_LOG(INFO) << "resumed" << Field("step", step_)
                     << Field("damaged", point.report.damaged.size());
  }
  if (!is_first_rank()) return absl::OkStatus();
  ANNEAL_RETURN_IF_ERROR(OpenRecords(point.checkpoint));
  return task_.resume_from.empty() ? absl::OkStatus()
                                   : around_.host.SendReport({.resumed = point.report});
}

absl::Status Trainer::OpenRecords(const std::optional<CheckpointReader>& checkpoint) {
  const std::string ledger_path = outputs_->path() + "/ledger.jsonl";
  if (checkpoint.has_value()) {
    ANNEAL_RETURN_IF_ERROR(around_.files.CopyFile(checkpoint->ledger_path(), ledger_path));
    ANNEAL_ASSIGN_OR_RETURN(const std::string history, checkpoint->ReadHistory());
    ANNEAL_ASSIGN_OR_RETURN(record_, RunRecord::FromJsonLines(history));
  }
  ANNEAL_ASSIGN_OR_RETURN(ledger_, LedgerWriter::Open(ledger_path));
  return absl::OkStatus();
}

std::vector<StateSlice> Trainer::StateOf(int first, int last) const {
  std::vector<StateSlice> slices;
  const auto append = [&](StateKind kind, const FlatParts& parts, int unit) {
    const FlatUnit& flat_unit = layout_->units()[unit];
    const int64_t per_shard = flat_unit.elements / task_.logical_shards;
    if (per_shard == 0) return;
    const int64_t offset = first * per_shard - values_->part().FirstOf(flat_unit);
    AppendSlices(kind, flat_unit, first * per_shard,
                 parts[unit].narrow(0, offset, (last - first) * per_shard), slices);
  };
  for (int unit = 0; unit < static_cast<int>(layout_->units().size()); ++unit) {
    append(StateKind::kValue, values_->own(), unit);
    append(StateKind::kFirstMoment, optimizer_->first_moment(), unit);
    append(StateKind::kSecondMoment, optimizer_->second_moment(), unit);
  }
  return slices;
}

absl::StatusOr<MemoryPlan> Trainer::PlannedMemory() const {
  ANNEAL_ASSIGN_OR_RETURN(const Sharding sharding, ParseSharding(task_.sharding));
  return PlanMemory(MemoryQuestionOf(
                        task_, *decoder_, *layout_, *plan_,
                        [this](int64_t row) { return train_data_->length(row); },
                        around_.accelerator.device().is_cpu()),
                    sharding);
}

void Trainer::PrepareCheckpoints() {
  if (task_.checkpoint_root.empty()) return;
  const int shards = task_.logical_shards / task_.world_size;
  std::vector<ShardState> own;
  for (int shard = task_.rank * shards; shard < (task_.rank + 1) * shards; ++shard) {
    own.push_back({.shard = shard, .slices = StateOf(shard, shard + 1)});
  }
  checkpointer_.emplace(
      Checkpointer::Options{.storage_root = around_.storage_root,
                            .root = task_.checkpoint_root,
                            .job = task_.job,
                            .generation = task_.generation,
                            .total_steps = plan_->total_steps(),
                            .logical_shards = task_.logical_shards,
                            .numeric_fingerprint = around_.accelerator.NumericFingerprint(),
                            .interval = absl::Seconds(task_.checkpoint_seconds)},
      Checkpointer::Surroundings{
          .communicator = around_.communicator,
          .device = around_.accelerator.device(),
          .files = around_.files,
          .clock = around_.clock,
          .send_report =
              [this](const protocol::Report& report) { return around_.host.SendReport(report); },
          .records =
              [this] {
                RunRecords records{.ledger_path = ledger_->path(),
                                   .ledger_bytes = ledger_->bytes(),
                                   .history = record_.ToJsonLines()};
                if (!record_.evaluations().empty())
                  records.validation_loss = record_.evaluations().back().loss;
                return records;
              }},
      std::move(own), step_);
}

absl::StatusOr<protocol::StopMode> Trainer::TrainAllSteps() {
  auto stop = protocol::StopMode::kNone;
  while (stop == protocol::StopMode::kNone && step_ < plan_->total_steps()) {
    ANNEAL_ASSIGN_OR_RETURN(const StepVote agreed, TrainOneStep(step_ + 1));
    stop = static_cast<protocol::StopMode>(agreed.stop);
    const bool last = stop == protocol::StopMode::kFinish || step_ == plan_->total_steps();
    const bool due = task_.evaluate_every_steps > 0 && step_ % task_.evaluate_every_steps == 0;
    if (last || due) ANNEAL_RETURN_IF_ERROR(Evaluate(step_));
    // After the evaluation, so that it is in the checkpoint.
    if (checkpointer_.has_value()) {
      // Copying the state takes its time, the other boundaries none.
      timer_->Enter(agreed.checkpoint ? "snapshot" : "checkpoint", step_);
      ANNEAL_RETURN_IF_ERROR(
          checkpointer_->AtStepBoundary(step_, agreed.checkpoint, agreed.part_is_done));
      phases_.checkpoint_stall_seconds = checkpointer_->stall_seconds();
    }
  }
  if (stop != protocol::StopMode::kNone) {
    ANNEAL_LOG(INFO) << "stopping early, as told" << Field("mode", protocol::StopModeName(stop))
                     << Field("step", step_);
  }
  return stop;
}

absl::StatusOr<StepVote> Trainer::TrainOneStep(int64_t step) {
  around_.host.SetPhase("train");
  const absl::Duration start = around_.clock.MonotonicNow();
  const PlannedStep planned = plan_->At(step);
  const StepVote vote{.stop = static_cast<int>(around_.host.stop_requested()),
                      .checkpoint = checkpointer_.has_value() && checkpointer_->is_due(),
                      .part_is_done = checkpointer_.has_value() && checkpointer_->part_is_done()};
  ANNEAL_ASSIGN_OR_RETURN(const StepOutcome outcome,
                          train_step_->Run(planned, schedule_->At(step), vote, phases_));
  step_ = step;
  ReportRank(/*now=*/false);
  if (!is_first_rank()) return outcome.agreed;

  ANNEAL_RETURN_IF_ERROR(ledger_->Append(outcome.entry));
  const protocol::StepReport report{
      .step = step,
      .total_steps = plan_->total_steps(),
      .epoch = plan_->EpochsAfter(step),
      .train_loss = outcome.entry.loss,
      .learning_rate = outcome.entry.learning_rate,
      .grad_norm = outcome.entry.grad_norm,
      .tokens = planned.tokens,
      .supervised_tokens = planned.supervised_tokens,
      .step_seconds = absl::ToDoubleSeconds(around_.clock.MonotonicNow() - start),
      .unix_time = absl::ToDoubleSeconds(around_.clock.TimeNow() - absl::UnixEpoch()),
  };
  record_.Add(report);
  ANNEAL_RETURN_IF_ERROR(around_.host.SendReport({.step = report}));
  return outcome.agreed;
}

absl::Status Trainer::Evaluate(int64_t step) {
  if (evaluator_ == nullptr) return absl::OkStatus();
  EnterPhase("evaluate");
  ANNEAL_ASSIGN_OR_RETURN(protocol::EvaluationReport report,
                          evaluator_->Run(step, [&] { timer_->Enter("evaluate", step); }));
  report.seconds = timer_->Lap(phases_.evaluate_seconds);
  ReportRank(/*now=*/true);
  if (!is_first_rank()) return absl::OkStatus();
  record_.Add(report);
  return around_.host.SendReport({.evaluation = report});
}

absl::Status Trainer::WriteOutputs() {
  EnterPhase("export");
  // The memory of what only training needs is there for the export.
  checkpointer_.reset();
  evaluator_.reset();
  train_step_.reset();
  optimizer_.reset();
  const std::string& dir = task_.output_dir;
  ANNEAL_ASSIGN_OR_RETURN(const Exported exported,
                          around_.export_values(task_, around_.accelerator, around_.communicator,
                                                *decoder_, *values_, dir));
  if (!is_first_rank()) return absl::OkStatus();
  protocol::ResultReport result = record_.Result();
  result.primary = exported.primary;
  result.merged_logit_difference = exported.merged_logit_difference;
  ANNEAL_RETURN_IF_ERROR(WriteFileAtomically(dir + "/metrics.csv", record_.MetricsCsv()));
  ANNEAL_RETURN_IF_ERROR(WriteFileAtomically(dir + "/report.json", record_.ReportJson(result)));
  ANNEAL_RETURN_IF_ERROR(WriteFileAtomically(dir + "/resolved_job.json", task_.resolved_job_json));
  if (!task_.data_report.empty()) {
    ANNEAL_ASSIGN_OR_RETURN(const std::string data_report, ReadSmallFile(task_.data_report));
    ANNEAL_RETURN_IF_ERROR(WriteFileAtomically(dir + "/data_report.json", data_report));
  }
  ANNEAL_ASSIGN_OR_RETURN(result.manifest_sha256, outputs_->Seal());
  result.output_dir = task_.output_dir;
  return around_.host.SendReport({.result = result});
}

void Trainer::EnterPhase(absl::string_view phase) {
  around_.whereabouts.Enter(phase, step_, Pace::kUnsteady);
  around_.host.SetPhase(phase);
}

void Trainer::ReportRank(bool now) {
  const absl::Duration time = around_.clock.MonotonicNow();
  if (!now && time - last_rank_report_ < kRankReportInterval) return;
  last_rank_report_ = time;
  phases_.resident_bytes = ResidentBytes();
  around_.host.SetRankReport(phases_);
}

}  // namespace anneal::trainer
