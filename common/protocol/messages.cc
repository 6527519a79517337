#include "common/protocol/messages.h"

#include <type_traits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace anneal::protocol {
namespace {

// One `Fields(visitor, struct)` per type names every field once; the writer and the reader below
// are two visitors over it.
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, InputFile>
void Fields(V& v, T& x) {
  v("path", x.path);
  v("display_name", x.display_name);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, PrepareTask>
void Fields(V& v, T& x) {
  v("job", x.job);
  v("generation", x.generation);
  v("model_dir", x.model_dir);
  v("model_content_hash", x.model_content_hash);
  v("train_files", x.train_files);
  v("validation_files", x.validation_files);
  v("validation_fraction", x.validation_fraction);
  v("min_validation_rows", x.min_validation_rows);
  v("validation_is_default", x.validation_is_default);
  v("max_length", x.max_length);
  v("over_length", x.over_length);
  v("train_on", x.train_on);
  v("template_time_unix_seconds", x.template_time_unix_seconds);
  v("seed", x.seed);
  v("threads", x.threads);
  v("output_dir", x.output_dir);
  v("cache_dir", x.cache_dir);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, ModuleRank>
void Fields(V& v, T& x) {
  v("module", x.module);
  v("rank", x.rank);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, ModuleAlpha>
void Fields(V& v, T& x) {
  v("module", x.module);
  v("alpha", x.alpha);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, LoraOptions>
void Fields(V& v, T& x) {
  v("rank", x.rank);
  v("alpha", x.alpha);
  v("dropout", x.dropout);
  v("target_modules", x.target_modules);
  v("use_rslora", x.use_rslora);
  v("rank_pattern", x.rank_pattern);
  v("alpha_pattern", x.alpha_pattern);
  v("modules_to_save", x.modules_to_save);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, CheckpointReference>
void Fields(V& v, T& x) {
  v("step", x.step);
  v("dir", x.dir);
  v("manifest_sha256", x.manifest_sha256);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, TrainTask>
void Fields(V& v, T& x) {
  v("job", x.job);
  v("generation", x.generation);
  v("rank", x.rank);
  v("world_size", x.world_size);
  v("device", x.device);
  v("device_uuid", x.device_uuid);
  v("data_address", x.data_address);
  v("threads", x.threads);
  v("model_dir", x.model_dir);
  v("model_content_hash", x.model_content_hash);
  v("model_source_id", x.model_source_id);
  v("train_data", x.train_data);
  v("validation_data", x.validation_data);
  v("data_report", x.data_report);
  v("output_dir", x.output_dir);
  v("resolved_job_json", x.resolved_job_json);
  v("lora", x.lora);
  v("epochs", x.epochs);
  v("max_steps", x.max_steps);
  v("batch_size", x.batch_size);
  v("learning_rate", x.learning_rate);
  v("schedule", x.schedule);
  v("warmup_ratio", x.warmup_ratio);
  v("max_grad_norm", x.max_grad_norm);
  v("weight_decay", x.weight_decay);
  v("adam_beta1", x.adam_beta1);
  v("adam_beta2", x.adam_beta2);
  v("adam_epsilon", x.adam_epsilon);
  v("seed", x.seed);
  v("microbatch_tokens", x.microbatch_tokens);
  v("logical_shards", x.logical_shards);
  v("precision", x.precision);
  v("reduction", x.reduction);
  v("evaluate_every_steps", x.evaluate_every_steps);
  v("evaluation_max_rows", x.evaluation_max_rows);
  v("export_merged", x.export_merged);
  v("collective_timeout_seconds", x.collective_timeout_seconds);
  v("sharding", x.sharding);
  v("checkpoint_root", x.checkpoint_root);
  v("checkpoint_seconds", x.checkpoint_seconds);
  v("resume_from", x.resume_from);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, StepReport>
void Fields(V& v, T& x) {
  v("step", x.step);
  v("total_steps", x.total_steps);
  v("epoch", x.epoch);
  v("train_loss", x.train_loss);
  v("learning_rate", x.learning_rate);
  v("grad_norm", x.grad_norm);
  v("tokens", x.tokens);
  v("supervised_tokens", x.supervised_tokens);
  v("step_seconds", x.step_seconds);
  v("unix_time", x.unix_time);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, EvaluationReport>
void Fields(V& v, T& x) {
  v("step", x.step);
  v("loss", x.loss);
  v("exact_match", x.exact_match);
  v("choice_accuracy", x.choice_accuracy);
  v("rows", x.rows);
  v("seconds", x.seconds);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, CheckpointReport>
void Fields(V& v, T& x) {
  v("step", x.step);
  v("dir", x.dir);
  v("manifest_sha256", x.manifest_sha256);
  v("bytes", x.bytes);
  v("write_seconds", x.write_seconds);
  v("stall_seconds", x.stall_seconds);
  v("validation_loss", x.validation_loss);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, CheckpointFailedReport>
void Fields(V& v, T& x) {
  v("step", x.step);
  v("why", x.why);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, DamagedCheckpoint>
void Fields(V& v, T& x) {
  v("dir", x.dir);
  v("why", x.why);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, ResumedReport>
void Fields(V& v, T& x) {
  v("step", x.step);
  v("dir", x.dir);
  v("damaged", x.damaged);
  v("fingerprint_change", x.fingerprint_change);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, IssueReport>
void Fields(V& v, T& x) {
  v("severity", x.severity);
  v("code", x.code);
  v("file", x.file);
  v("line", x.line);
  v("column", x.column);
  v("field", x.field);
  v("message", x.message);
  v("hint", x.hint);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, PreparedReport>
void Fields(V& v, T& x) {
  v("output_dir", x.output_dir);
  v("train_data", x.train_data);
  v("validation_data", x.validation_data);
  v("data_report", x.data_report);
  v("train_rows", x.train_rows);
  v("validation_rows", x.validation_rows);
  v("train_tokens", x.train_tokens);
  v("train_supervised_tokens", x.train_supervised_tokens);
  v("longest_row_tokens", x.longest_row_tokens);
  v("duplicate_rows", x.duplicate_rows);
  v("leaked_rows", x.leaked_rows);
  v("dropped_rows", x.dropped_rows);
  v("truncated_rows", x.truncated_rows);
  v("error_count", x.error_count);
  v("warning_count", x.warning_count);
  v("issues", x.issues);
  v("from_cache", x.from_cache);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, ResultReport>
void Fields(V& v, T& x) {
  v("output_dir", x.output_dir);
  v("primary", x.primary);
  v("manifest_sha256", x.manifest_sha256);
  v("merged_logit_difference", x.merged_logit_difference);
  v("first_loss", x.first_loss);
  v("last_loss", x.last_loss);
  v("train_seconds", x.train_seconds);
  v("evaluation_seconds", x.evaluation_seconds);
  v("before", x.before);
  v("after", x.after);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, RankReport>
void Fields(V& v, T& x) {
  v("step", x.step);
  v("fetch_seconds", x.fetch_seconds);
  v("forward_seconds", x.forward_seconds);
  v("backward_seconds", x.backward_seconds);
  v("reduce_seconds", x.reduce_seconds);
  v("update_seconds", x.update_seconds);
  v("evaluate_seconds", x.evaluate_seconds);
  v("load_seconds", x.load_seconds);
  v("tokens", x.tokens);
  v("resident_bytes", x.resident_bytes);
  v("checkpoint_stall_seconds", x.checkpoint_stall_seconds);
  v("phase_seconds", x.phase_seconds);
  v("collective", x.collective);
  v("collective_sequence", x.collective_sequence);
  v("in_collective", x.in_collective);
  v("overdue", x.overdue);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, Report>
void Fields(V& v, T& x) {
  v("step", x.step);
  v("evaluation", x.evaluation);
  v("issue", x.issue);
  v("prepared", x.prepared);
  v("result", x.result);
  v("checkpoint", x.checkpoint);
  v("checkpoint_failed", x.checkpoint_failed);
  v("resumed", x.resumed);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, Hello>
void Fields(V& v, T& x) {
  v("version", x.version);
  v("kind", x.kind);
  v("pid", x.pid);
  v("job", x.job);
  v("generation", x.generation);
  v("rank", x.rank);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, Start>
void Fields(V& v, T& x) {
  v("storage_root", x.storage_root);
  v("task", x.task);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, Rendezvous>
void Fields(V& v, T& x) { v("address", x.address); }
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, Status>
void Fields(V& v, T& x) {
  v("phase", x.phase);
  v("reports", x.reports);
  v("rank", x.rank);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, Stop>
void Fields(V& v, T& x) { v("mode", x.mode); }
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, ExitRecord>
void Fields(V& v, T& x) {
  v("status_code", x.status_code);
  v("reason", x.reason);
  v("message", x.message);
}
template <typename V, typename T>
requires std::is_same_v<std::remove_const_t<T>, Line>
void Fields(V& v, T& x) {
  v("hello", x.hello);
  v("start", x.start);
  v("rendezvous", x.rendezvous);
  v("status", x.status);
  v("stop", x.stop);
}

template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};
template <typename T>
struct IsOptional : std::false_type {};
template <typename T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <typename T>
constexpr bool kIsScalar =
    std::is_arithmetic_v<T> || std::is_same_v<T, std::string> || std::is_same_v<T, Json>;

// Absent optionals are left out.
class Writer {
 public:
  template <typename T>
  void operator()(const char* name, const T& value) {
    if constexpr (IsOptional<T>::value) {
      if (value.has_value()) json[name] = Value(*value);
    } else {
      json[name] = Value(value);
    }
  }
  template <typename T>
  static Json Value(const T& value) {
    if constexpr (kIsScalar<T>) {
      return value;
    } else if constexpr (IsVector<T>::value) {
      Json array = Json::array();
      for (const auto& item : value) array.push_back(Value(item));
      return array;
    } else {
      Writer writer;
      Fields(writer, value);
      return std::move(writer.json);
    }
  }
  Json json = Json::object();
};

// Keeps the first error, with the path of the field. Absent fields keep their defaults.
class Reader {
 public:
  explicit Reader(const Json& json, std::string path = "") : json_(json), path_(std::move(path)) {
    if (!json_.is_object()) Fail(path_, "an object", json_);
  }
  template <typename T>
  void operator()(const char* name, T& value) {
    if (!status.ok()) return;
    auto it = json_.find(name);
    if (it == json_.end() || it->is_null()) return;
    Read(*it, path_.empty() ? name : absl::StrCat(path_, ".", name), value);
  }
  absl::Status status;

 private:
  template <typename T>
  void Read(const Json& json, const std::string& path, T& value) {
    if constexpr (std::is_same_v<T, Json>) {
      value = json;
    } else if constexpr (std::is_same_v<T, bool>) {
      if (!json.is_boolean()) return Fail(path, "true or false", json);
      value = json.get<bool>();
    } else if constexpr (std::is_integral_v<T>) {
      const bool fits = json.is_number_unsigned()
                            ? std::in_range<T>(json.get<uint64_t>())
                            : json.is_number_integer() && std::in_range<T>(json.get<int64_t>());
      if (!fits) return Fail(path, absl::StrCat("a ", 8 * sizeof(T), "-bit integer"), json);
      value = json.get<T>();
    } else if constexpr (std::is_floating_point_v<T>) {
      if (!json.is_number()) return Fail(path, "a number", json);
      value = json.get<T>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (!json.is_string()) return Fail(path, "a string", json);
      value = json.get<std::string>();
    } else if constexpr (IsVector<T>::value) {
      if (!json.is_array()) return Fail(path, "an array", json);
      value.clear();
      for (size_t i = 0; i < json.size() && status.ok(); ++i) {
        Read(json[i], absl::StrCat(path, "[", i, "]"), value.emplace_back());
      }
    } else if constexpr (IsOptional<T>::value) {
      Read(json, path, value.emplace());
    } else {
      Reader reader(json, path);
      if (reader.status.ok()) Fields(reader, value);
      status.Update(reader.status);
    }
  }
  void Fail(const std::string& path, absl::string_view expected, const Json& got) {
    std::string text = DumpJson(got).substr(0, 60);
    status = absl::InvalidArgumentError(
        absl::StrCat(path.empty() ? "message" : path, ": expected ", expected, ", got ", text));
  }

  const Json& json_;
  const std::string path_;
};

template <typename T>
absl::StatusOr<T> FromJson(const Json& json) {
  T value;
  Reader reader(json);
  if (reader.status.ok()) Fields(reader, value);
  if (!reader.status.ok()) return reader.status;
  return value;
}

}  // namespace

std::string FormatLine(const Line& line) { return DumpJson(Writer::Value(line)); }

absl::StatusOr<Line> ParseLine(absl::string_view text) {
  absl::StatusOr<Json> json = ParseJson(text, {.max_bytes = kMaxLineBytes, .max_depth = 32});
  if (!json.ok()) return json.status();
  absl::StatusOr<Line> line = FromJson<Line>(*json);
  if (!line.ok()) return line.status();
  const int set = line->hello.has_value() + line->start.has_value() + line->rendezvous.has_value() +
                  line->status.has_value() + line->stop.has_value();
  if (set != 1)
    return absl::InvalidArgumentError(absl::StrCat("a line carries one message, this one ", set));
  return line;
}

Json ToJson(const PrepareTask& task) { return Writer::Value(task); }
Json ToJson(const TrainTask& task) { return Writer::Value(task); }
Json ToJson(const Report& report) { return Writer::Value(report); }
Json ToJson(const PreparedReport& report) { return Writer::Value(report); }
Json ToJson(const EvaluationReport& report) { return Writer::Value(report); }
Json ToJson(const ExitRecord& record) { return Writer::Value(record); }
absl::StatusOr<PrepareTask> PrepareTaskFromJson(const Json& json) {
  return FromJson<PrepareTask>(json);
}
absl::StatusOr<TrainTask> TrainTaskFromJson(const Json& json) { return FromJson<TrainTask>(json); }
absl::StatusOr<Report> ReportFromJson(const Json& json) {
  absl::StatusOr<Report> report = FromJson<Report>(json);
  if (!report.ok()) return report;
  const int set = report->step.has_value() + report->evaluation.has_value() +
                  report->issue.has_value() + report->prepared.has_value() +
                  report->result.has_value() + report->checkpoint.has_value() +
                  report->checkpoint_failed.has_value() + report->resumed.has_value();
  if (set != 1)
    return absl::InvalidArgumentError(absl::StrCat("a report carries one message, this one ", set));
  return report;
}
absl::StatusOr<ExitRecord> ExitRecordFromJson(const Json& json) {
  return FromJson<ExitRecord>(json);
}

std::string ResolvePath(absl::string_view storage_root, absl::string_view path) {
  if (path.empty() || absl::StartsWith(path, "/")) return std::string(path);
  return absl::StrCat(storage_root, "/", path);
}

}  // namespace anneal::protocol
