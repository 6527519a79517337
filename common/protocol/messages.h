#pragma once
// What the worker daemon and its child processes (anneal-prepare, anneal-trainer) say to each
// other, and the two task descriptions that the coordinator hands down. Plain structs with a JSON
// form; no protobuf, no torch.
//
// Wire: the child listens on a Unix stream socket in its run folder; one JSON object per line, at
// most kMaxLineBytes, both ways. The daemon sends `start` once per connection and gets `hello`.
// Unknown fields are ignored, wrong types are errors. Reports do not pass through the socket: the
// child appends each as a line of JSON to reports.jsonl in its run folder, and the socket only
// tells how many there are. Report number N is line N. So neither side resends, and nothing is lost
// when the daemon, the child or both die (docs/formats/run_folder.md).
//
// Paths in tasks are absolute, or relative to the storage root, which the daemon passes in `start`.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/format/json.h"

namespace anneal::protocol {

inline constexpr int kVersion = 1;
inline constexpr size_t kMaxLineBytes = 4u << 20;
// A report travels upward in one gRPC message with others, so it is bounded more tightly.
inline constexpr size_t kMaxReportBytes = 1u << 20;

// ---- Tasks: the coordinator writes them, the child reads them; the daemon only carries them. ----

struct InputFile {
  std::string path;          // of a user's file a rooted one (common/storage/open_beneath.h)
  std::string display_name;  // how the user named it; errors show this
};

// One run of anneal-prepare: data files to prepared data sets (docs/formats/prepared_dataset.md).
struct PrepareTask {
  std::string job;  // ULID
  int64_t generation = 0;
  std::string model_dir;
  std::string model_content_hash;
  std::vector<InputFile> train_files;
  std::vector<InputFile> validation_files;
  double validation_fraction = 0;      // used when validation_files is empty; 0 = none
  int64_t min_validation_rows = 10;    // with a default fraction: at least so many
  bool validation_is_default = false;  // none, with a warning, below 50 rows
  int64_t max_length = 2048;
  std::string over_length = "REJECT";  // REJECT, TRUNCATE, DROP
  std::string train_on = "ASSISTANT";  // ASSISTANT, LAST_TURN, ALL
  int64_t template_time_unix_seconds = 0;
  uint64_t seed = 0;  // of the choice of held-out rows
  int32_t threads = 1;
  std::string output_dir;  // gets train.safetensors, validation.safetensors (if any),
                           // data_report.json; made by rename
  // Prepared files of the same content are kept here under their cache key. Empty = no cache.
  std::string cache_dir;
};

// A value for the modules that a name or suffix means.
struct ModuleRank {
  std::string module;
  int32_t rank = 0;
};
struct ModuleAlpha {
  std::string module;
  double alpha = 0;
};

struct LoraOptions {
  int32_t rank = 16;
  double alpha = 32;
  double dropout = 0;
  std::vector<std::string> target_modules = {"all-linear"};
  bool use_rslora = false;
  // Instead of rank and alpha; the first that means a module counts.
  std::vector<ModuleRank> rank_pattern;
  std::vector<ModuleAlpha> alpha_pattern;
  // Trained whole beside the adapter: "embed_tokens", "lm_head".
  std::vector<std::string> modules_to_save;
};

// A committed checkpoint of a job (docs/formats/checkpoint.md).
struct CheckpointReference {
  int64_t step = 0;             // finished when it was taken
  std::string dir;              // <checkpoint_root>/<step>-g<generation>
  std::string manifest_sha256;  // of the bytes of its manifest.json
};

// One rank of one generation: everything a trainer computes with. Equal on all ranks but for rank,
// device and threads.
struct TrainTask {
  std::string job;  // ULID
  int64_t generation = 0;
  int32_t rank = 0;
  int32_t world_size = 1;
  std::string device = "cpu";  // "cpu" or "cuda"
  std::string device_uuid;     // of the GPU; empty on CPU
  std::string data_address =
      "127.0.0.1";  // collectives bind and connect here; filled by the daemon
  int32_t threads = 1;

  std::string model_dir;
  std::string model_content_hash;  // empty = not checked
  std::string model_source_id;     // base_model_name_or_path of the adapter; empty = model_dir
  std::string train_data;          // prepared data set
  std::string validation_data;     // empty = no evaluation
  std::string data_report;         // copied into the outputs; may be empty
  std::string output_dir;         // rank 0 makes it, of this generation; the coordinator renames it
  std::string resolved_job_json;  // copied into the outputs as it is

  std::optional<LoraOptions> lora;  // absent = full fine-tuning
  int32_t epochs = 3;
  int64_t max_steps = 0;  // 0 = no limit
  int32_t batch_size = 16;
  double learning_rate = 2e-4;
  std::string schedule = "COSINE";  // COSINE, LINEAR, CONSTANT
  double warmup_ratio = 0.03;
  double max_grad_norm = 1.0;
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  uint64_t seed = 0;
  int32_t microbatch_tokens = 512;
  int32_t logical_shards = 4;
  std::string precision = "FP32";         // FP32, BF16
  std::string reduction = "FIXED_ORDER";  // FIXED_ORDER, FAST
  int32_t evaluate_every_steps = 0;
  int32_t evaluation_max_rows = 256;
  bool export_merged = false;
  int64_t collective_timeout_seconds = 600;

  std::string sharding =
      "NONE";  // NONE, OPTIMIZER, GRADIENTS, FULL; never AUTO, which is resolved before
  std::string checkpoint_root;      // jobs/<job>/checkpoints; empty = none are written
  double checkpoint_seconds = 600;  // between two of them; 0 = only when told to pause
  // Committed ones, newest first. The first that is whole is resumed from. Empty = from the start.
  std::vector<CheckpointReference> resume_from;
};

// ---- Reports: child -> reports.jsonl -> daemon -> coordinator, in order. ----

// One finished optimizer step. Rank 0 sends these for the job.
struct StepReport {
  int64_t step = 0;
  int64_t total_steps = 0;
  double epoch = 0;
  double train_loss = 0;
  double learning_rate = 0;
  double grad_norm = 0;
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
  double step_seconds = 0;
  double unix_time = 0;
};

struct EvaluationReport {
  int64_t step = 0;
  double loss = 0;
  double exact_match = 0;
  std::optional<double> choice_accuracy;
  int64_t rows = 0;
  double seconds = 0;
};

// A checkpoint is durable, and becomes one to resume from when the coordinator commits it. Rank 0
// only.
struct CheckpointReport {
  int64_t step = 0;
  std::string dir;  // as in CheckpointReference
  std::string manifest_sha256;
  int64_t bytes = 0;
  double write_seconds = 0;  // in the background
  double stall_seconds =
      0;  // for which rank 0's training stood still: the snapshot, and the wait for the one before
  std::optional<double> validation_loss;  // of the newest evaluation up to its step
};

// A checkpoint could not be written; training goes on, and the ones before are as they were. Rank 0
// only.
struct CheckpointFailedReport {
  int64_t step = 0;
  std::string why;
};

struct DamagedCheckpoint {
  std::string dir;
  std::string why;
};

// Where this generation went on. Rank 0 sends it once, after loading, if TrainTask::resume_from was
// not empty.
struct ResumedReport {
  int64_t step = 0;  // 0 and an empty dir: none was whole, from the start
  std::string dir;
  std::vector<DamagedCheckpoint> damaged;  // newer than `dir`
  std::string fingerprint_change;  // empty = same numerics; else why bits may differ from an
                                   // undisturbed run's
};

// One finding about the data; the same shape as anneal.v1.Issue.
struct IssueReport {
  std::string severity = "ERROR";  // INFO, WARNING, ERROR
  std::string code, file, field, message, hint;
  int64_t line = 0;
  int32_t column = 0;
};

// Prepare has ended well, or found errors: then `issues` holds the first 100 of `error_count`,
// output_dir holds data_report.json alone, which lists them all, and train_data is empty.
struct PreparedReport {
  std::string output_dir;
  std::string train_data, validation_data, data_report;  // paths; validation_data may be empty
  int64_t train_rows = 0, validation_rows = 0, train_tokens = 0, train_supervised_tokens = 0;
  int64_t longest_row_tokens = 0, duplicate_rows = 0, leaked_rows = 0, dropped_rows = 0,
          truncated_rows = 0;
  int64_t error_count = 0, warning_count = 0;
  std::vector<IssueReport> issues;
  bool from_cache = false;
};

// The trainer has published its outputs. Rank 0 only.
struct ResultReport {
  std::string output_dir;
  std::string primary;  // "adapter" or "model"
  std::string manifest_sha256;
  // Largest difference between a logit of merged/ and that of base and adapter; absent without
  // merged/.
  std::optional<double> merged_logit_difference;
  double first_loss = 0, last_loss = 0;
  double train_seconds = 0, evaluation_seconds = 0;
  std::optional<EvaluationReport> before, after;
};

// Seconds spent so far by one rank per phase of its steps, cumulative; every rank, about once a
// second.
struct RankReport {
  int64_t step = 0;
  double fetch_seconds = 0, forward_seconds = 0, backward_seconds = 0, reduce_seconds = 0,
         update_seconds = 0;
  double evaluate_seconds = 0, load_seconds = 0;
  int64_t tokens = 0;
  int64_t resident_bytes = 0;
  double checkpoint_stall_seconds = 0;  // training stood still for checkpoints
  // Where it is now, so that a hang has a name.
  double phase_seconds =
      0;  // since it last entered a part of its phase, or entered or left a collective
  std::string
      collective;  // tag of the call under way, else of the last one; empty before the first
  int64_t collective_sequence = 0;  // number of that call, from 1
  bool in_collective = false;
  // Where it is, in words, once it has been inside that call for so long that it hangs, or a rank
  // that it waits for does. Else empty.
  std::string overdue;
};

// Exactly one member is set.
struct Report {
  std::optional<StepReport> step;
  std::optional<EvaluationReport> evaluation;
  std::optional<IssueReport> issue;
  std::optional<PreparedReport> prepared;
  std::optional<ResultReport> result;
  std::optional<CheckpointReport> checkpoint;
  std::optional<CheckpointFailedReport> checkpoint_failed;
  std::optional<ResumedReport> resumed;
};

// ---- Lines ----

struct Hello {  // child -> daemon, first line
  int version = kVersion;
  std::string kind;  // "prepare" or "train"
  int64_t pid = 0;
  std::string job;
  int64_t generation = 0;
  int32_t rank = 0;
};
struct Start {  // daemon -> child; repeated on reconnection, ignored when already started
  std::string storage_root;
  Json task;  // PrepareTask or TrainTask
};
struct Rendezvous {  // daemon -> ranks > 0, and child rank 0 -> daemon: where rank 0's store
                     // listens
  std::string address;
};
struct Status {  // child -> daemon: newest state; the last one counts
  std::string phase;
  int64_t reports = 0;  // complete lines in reports.jsonl
  std::optional<RankReport> rank;
};
// daemon -> child. PAUSE: at the next step boundary, with a checkpoint; the exit record then says
// PAUSED. FINISH: at the next step boundary, then export. NOW: as soon as possible, publish
// nothing.
struct Stop {
  std::string mode = "NOW";
};

// How a child ended, written by itself to <run folder>/exit.json before it exits.
struct ExitRecord {
  int status_code = 0;  // google.rpc.Code; 0 = success
  // "OUT_OF_MEMORY", "NON_FINITE_LOSS", "COLLECTIVE_FAILED", "BAD_DATA", "HUNG", "STOPPED",
  // "PAUSED" (with code 0), ...
  std::string reason;
  std::string message;
};

// Exactly one member is set. `ParseLine(FormatLine(x))` gives x back; FormatLine's text has no line
// end.
struct Line {
  std::optional<Hello> hello;
  std::optional<Start> start;
  std::optional<Rendezvous> rendezvous;
  std::optional<Status> status;
  std::optional<Stop> stop;
};
std::string FormatLine(const Line& line);
absl::StatusOr<Line> ParseLine(absl::string_view text);

// JSON forms. From* report INVALID_ARGUMENT with the field's name.
Json ToJson(const PrepareTask& task);
Json ToJson(const TrainTask& task);
Json ToJson(const Report& report);
Json ToJson(const PreparedReport& report);
Json ToJson(const EvaluationReport& report);
Json ToJson(const ExitRecord& record);
absl::StatusOr<PrepareTask> PrepareTaskFromJson(const Json& json);
absl::StatusOr<TrainTask> TrainTaskFromJson(const Json& json);
absl::StatusOr<Report> ReportFromJson(const Json& json);
absl::StatusOr<ExitRecord> ExitRecordFromJson(const Json& json);

// `path` if absolute, else below `storage_root`.
std::string ResolvePath(absl::string_view storage_root, absl::string_view path);

}  // namespace anneal::protocol
