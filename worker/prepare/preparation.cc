#include "worker/prepare/preparation.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/format/model_directory.h"
#include "common/format/model_weights.h"
#include "common/format/prepared_dataset.h"
#include "common/storage/open_beneath.h"
#include "common/text/text_model.h"
#include "worker/prepare/batch_pipeline.h"
#include "worker/prepare/data_report.h"
#include "worker/prepare/held_out.h"
#include "worker/prepare/line_reader.h"
#include "worker/prepare/output_folder.h"
#include "worker/prepare/row_encoder.h"
#include "worker/prepare/row_parser.h"
#include "worker/prepare/twin_finder.h"

namespace anneal::prepare {
namespace {

// Part of every content key: raise it when the same rows would be prepared otherwise than before.
constexpr int kPreparationVersion = 2;
constexpr size_t kRowsPerBatch = 64;
constexpr size_t kBytesPerBatch = 1u << 20;
constexpr int64_t kRowsPerSurveyStep = 4096;
constexpr size_t kMaxReportFileBytes = 256u << 20;

// Rows of the model's embedding. A model without config.json can still be checked against: then
// what the tokenizer knows.
absl::StatusOr<int64_t> ModelVocabSize(const std::string& model_dir, const Tokenizer& tokenizer) {
  absl::StatusOr<Json> config = ReadJsonFile(absl::StrCat(model_dir, "/config.json"));
  if (absl::IsNotFound(config.status())) return tokenizer.vocab_size();
  if (!config.ok()) return config.status();
  if (!config->is_object() || !config->contains("vocab_size")) return tokenizer.vocab_size();
  const Json& size = (*config)["vocab_size"];
  if (!size.is_number_integer() || size <= 0 || size > INT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat(model_dir, "/config.json: vocab_size is ", DumpJson(size)));
  }
  return size.get<int64_t>();
}

// 1234567 as "1,234,567".
std::string Grouped(int64_t number) {
  std::string text = absl::StrCat(number);
  for (int64_t at = static_cast<int64_t>(text.size()) - 3; at > 0; at -= 3) text.insert(at, ",");
  return text;
}

class Preparation {
 public:
  Preparation(const protocol::PrepareTask& task, const PrepareHooks& hooks)
      : task_(task), hooks_(hooks), held_out_(task.seed) {}

  absl::StatusOr<Prepared> Run();

 private:
  absl::Status ReadTask();
  // Before accelerators are taken: the model that the job was created for, with weights that can
  // be trained.
  absl::Status CheckModel();
  // First reading: hashes, numbers of rows, held-out rows, content key.
  absl::Status Survey();
  absl::Status SurveyFile(size_t file, std::vector<uint64_t>& keys);
  std::string ContentKey() const;
  // The cached result of equal content, published; nothing if there is none.
  std::optional<Prepared> TakeFromCache();
  // Second reading.
  absl::Status OpenWriters();
  absl::Status EncodeAll();
  absl::Status Consume(Batch batch);
  absl::Status ConsumeRow(const RowInWork& row);
  void ReportLeaks();
  void CheckTotals();
  absl::StatusOr<Prepared> Conclude();
  void KeepInCache();

  bool IsTraining(size_t file) const { return file < task_.train_files.size(); }
  const std::string& NameOf(size_t file) const { return report_.files[file].name; }
  void AddIssue(Issue issue, size_t file, int64_t line) {
    issue.file = NameOf(file);
    issue.line = line;
    report_.issues.Add(std::move(issue));
  }
  Prepared Result(protocol::PreparedReport summary, Json data_report) const;

  const protocol::PrepareTask& task_;
  const PrepareHooks& hooks_;
  EncodeOptions options_;
  TextModel model_;
  std::vector<protocol::InputFile> files_;  // training files first
  HeldOut held_out_;
  int64_t training_file_rows_ = 0;
  int64_t held_out_rows_ = 0;
  int64_t total_rows_ = 0;
  int64_t rows_done_ = 0;
  DataReport report_;
  TwinFinder twins_;
  std::optional<OutputFolder> output_;  // none when nothing is to be written
  std::unique_ptr<PreparedDatasetWriter> train_writer_, validation_writer_;
};

absl::Status Preparation::ReadTask() {
  ANNEAL_ASSIGN_OR_RETURN(options_.over_length, ParseOverLength(task_.over_length));
  ANNEAL_ASSIGN_OR_RETURN(options_.train_on, ParseTrainOn(task_.train_on));
  options_.max_length = task_.max_length;
  if (task_.max_length < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_length is ", task_.max_length, "; a row needs 2 tokens to learn from"));
  }
  if (task_.threads < 1) {
    return absl::InvalidArgumentError(absl::StrCat("threads is ", task_.threads));
  }
  if (!(task_.validation_fraction >= 0 && task_.validation_fraction < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("validation_fraction is ", task_.validation_fraction, ", not in [0, 1)"));
  }
  if (task_.train_files.empty()) return absl::InvalidArgumentError("no training files");
  if (!task_.model_content_hash.empty()) ANNEAL_RETURN_IF_ERROR(CheckModel());
  hooks_.on_phase("loading the tokenizer");
  ANNEAL_ASSIGN_OR_RETURN(
      model_,
      LoadTextModel(task_.model_dir, absl::FromUnixSeconds(task_.template_time_unix_seconds)));
  ANNEAL_ASSIGN_OR_RETURN(options_.vocab_size, ModelVocabSize(task_.model_dir, *model_.tokenizer));
  files_ = task_.train_files;
  files_.insert(files_.end(), task_.validation_files.begin(), task_.validation_files.end());
  return absl::OkStatus();
}

absl::Status Preparation::CheckModel() {
  hooks_.on_phase("checking the model");
  ANNEAL_RETURN_IF_ERROR(CheckModelUnchanged(task_.model_dir, task_.model_content_hash).status());
  ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<ModelWeights> weights,
                          ModelWeights::Open(task_.model_dir));
  return weights->CheckFinite();
}

absl::Status Preparation::SurveyFile(size_t file, std::vector<uint64_t>& keys) {
  FileSummary& summary = report_.files.emplace_back();
  summary.name =
      files_[file].display_name.empty() ? PlainPath(files_[file].path) : files_[file].display_name;
  summary.split = IsTraining(file) ? "train" : "validation";
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<LineReader> reader,
                          LineReader::Open(files_[file].path, kMaxRowBytes));
  const bool wants_keys =
      IsTraining(file) && task_.validation_files.empty() && task_.validation_fraction > 0;
  Line line;
  while (true) {
    ANNEAL_ASSIGN_OR_RETURN(const bool found, reader->Next(&line));
    if (!found) break;
    if (summary.rows % kRowsPerSurveyStep == 0) {
      if (hooks_.stop_requested()) return absl::CancelledError("told to stop");
      hooks_.on_phase(absl::StrCat("reading ", summary.name, ": ", Grouped(summary.rows), " rows"));
    }
    ++summary.rows;
    if (wants_keys) keys.push_back(held_out_.KeyOf(line.text));
  }
  summary.bytes = reader->bytes();
  summary.sha256 = reader->HexDigest();
  if (summary.rows == 0) {
    AddIssue({.severity = "ERROR",
              .code = "NO_ROWS",
              .message = "the file has no rows",
              .hint = "each line is one row"},
             file, 0);
  }
  return absl::OkStatus();
}

absl::Status Preparation::Survey() {
  std::vector<uint64_t> keys;
  for (size_t file = 0; file < files_.size(); ++file) {
    ANNEAL_RETURN_IF_ERROR(SurveyFile(file, keys));
    total_rows_ += report_.files[file].rows;
    if (IsTraining(file)) training_file_rows_ += report_.files[file].rows;
  }
  held_out_rows_ = task_.validation_files.empty() ? HeldOutRows(task_, training_file_rows_) : 0;
  if (held_out_rows_ > 0) held_out_.Choose(std::move(keys), held_out_rows_);
  if (held_out_rows_ == 0 && task_.validation_files.empty() && task_.validation_fraction > 0) {
    report_.issues.Add({.severity = "WARNING",
                        .code = "NO_VALIDATION",
                        .message = absl::StrCat("no rows are held out for validation: ",
                                                training_file_rows_, " rows are too few"),
                        .hint = task_.validation_is_default
                                    ? "name files in data.validation.files, or set "
                                      "data.validation.fraction"
                                    : "name files in data.validation.files, or set a larger "
                                      "data.validation.fraction"});
  }
  report_.content_key = ContentKey();
  return absl::OkStatus();
}

std::string Preparation::ContentKey() const {
  Json files = Json::array();
  for (const FileSummary& file : report_.files) {
    files.push_back({file.name, file.split, file.sha256});
  }
  Json key = {{"version", kPreparationVersion},    {"model", model_.fingerprint},
              {"vocab_size", options_.vocab_size}, {"files", std::move(files)},
              {"max_length", task_.max_length},    {"over_length", task_.over_length},
              {"train_on", task_.train_on},        {"held_out_rows", held_out_rows_}};
  if (held_out_rows_ > 0) key["seed"] = task_.seed;
  // Whether a split was asked for decides on the warning about its absence.
  key["wants_validation"] = task_.validation_fraction > 0;
  return Sha256Hex(DumpJson(key));
}

Prepared Preparation::Result(protocol::PreparedReport summary, Json data_report) const {
  if (!task_.output_dir.empty()) {
    summary.output_dir = task_.output_dir;
    summary.data_report = absl::StrCat(task_.output_dir, "/", kDataReportName);
    if (summary.error_count == 0) {
      summary.train_data = absl::StrCat(task_.output_dir, "/", kTrainName);
    }
    if (summary.error_count == 0 && summary.validation_rows > 0) {
      summary.validation_data = absl::StrCat(task_.output_dir, "/", kValidationName);
    }
  }
  return {.report = std::move(summary), .data_report = std::move(data_report)};
}

std::optional<Prepared> Preparation::TakeFromCache() {
  if (task_.cache_dir.empty() || task_.output_dir.empty()) return std::nullopt;
  const std::string cached = absl::StrCat(task_.cache_dir, "/", report_.content_key);
  std::error_code error;
  if (!std::filesystem::exists(cached, error)) return std::nullopt;
  const auto take = [&]() -> absl::StatusOr<Prepared> {
    ANNEAL_ASSIGN_OR_RETURN(const auto train,
                            PreparedDataset::Open(absl::StrCat(cached, "/", kTrainName)));
    ANNEAL_ASSIGN_OR_RETURN(Json data_report,
                            ReadJsonFile(absl::StrCat(cached, "/", kDataReportName),
                                         {.max_bytes = kMaxReportFileBytes}));
    ANNEAL_ASSIGN_OR_RETURN(protocol::PreparedReport summary, SummaryFromJson(data_report));
    if (train->info().content_key != report_.content_key || train->size() != summary.train_rows) {
      return absl::DataLossError("it holds other content than its name says");
    }
    if (summary.validation_rows > 0) {
      ANNEAL_ASSIGN_OR_RETURN(const auto validation,
                              PreparedDataset::Open(absl::StrCat(cached, "/", kValidationName)));
      if (validation->size() != summary.validation_rows) {
        return absl::DataLossError("its validation rows are others");
      }
    }
    ANNEAL_ASSIGN_OR_RETURN(
        OutputFolder output,
        OutputFolder::Create(task_.output_dir, absl::StrCat("g", task_.generation)));
    ANNEAL_RETURN_IF_ERROR(output.AddAllOf(cached));
    ANNEAL_RETURN_IF_ERROR(output.Publish(/*replace=*/true));
    summary.from_cache = true;
    return Result(std::move(summary), std::move(data_report));
  };
  absl::StatusOr<Prepared> taken = take();
  if (taken.ok()) return *std::move(taken);
  std::filesystem::remove_all(cached, error);  // so that the new result can take its place
  ANNEAL_LOG(WARNING) << "cached prepared data is not used" << Field("path", cached)
                      << Field("why", taken.status().ToString());
  return std::nullopt;
}

absl::Status Preparation::OpenWriters() {
  if (task_.output_dir.empty()) return absl::OkStatus();
  ANNEAL_ASSIGN_OR_RETURN(
      OutputFolder output,
      OutputFolder::Create(task_.output_dir, absl::StrCat("g", task_.generation)));
  output_.emplace(std::move(output));
  const PreparedDatasetInfo info = {.content_key = report_.content_key,
                                    .vocab_size = options_.vocab_size,
                                    .max_length = task_.max_length};
  ANNEAL_ASSIGN_OR_RETURN(train_writer_,
                          PreparedDatasetWriter::Create(output_->File(kTrainName), info));
  ANNEAL_ASSIGN_OR_RETURN(validation_writer_,
                          PreparedDatasetWriter::Create(output_->File(kValidationName), info));
  return absl::OkStatus();
}

void ParseAndEncode(const RowEncoder& encoder, RowInWork& row) {
  const auto refuse = [&](Issue issue) {
    row.encoded.fate = EncodedRow::Fate::kRefused;
    row.encoded.issues.push_back(std::move(issue));
  };
  if (row.line.too_long) {
    return refuse({.severity = "ERROR",
                   .code = "LINE_TOO_LONG",
                   .message = absl::StrCat("the line is longer than ", kMaxRowBytes >> 20, " MiB"),
                   .hint = "each line is one row; is this a JSON lines file?"});
  }
  ParsedRow parsed = ParseRow(row.line.text);
  if (parsed.issues.empty()) {
    row.encoded = encoder.Encode(parsed.row);
  } else {
    row.encoded.fate = EncodedRow::Fate::kRefused;
    row.encoded.issues = std::move(parsed.issues);
  }
}

absl::Status Preparation::EncodeAll() {
  const RowEncoder encoder(model_, options_);
  BatchPipeline pipeline(task_.threads, [&encoder](Batch& batch) {
    for (RowInWork& row : batch.rows) ParseAndEncode(encoder, row);
  });
  const size_t max_in_flight = 2 * static_cast<size_t>(task_.threads) + 2;
  for (size_t file = 0; file < files_.size(); ++file) {
    ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<LineReader> reader,
                            LineReader::Open(files_[file].path, kMaxRowBytes));
    bool more = true;
    for (int64_t row = 0; more;) {
      if (hooks_.stop_requested()) return absl::CancelledError("told to stop");
      Batch batch;
      size_t bytes = 0;
      while (batch.rows.size() < kRowsPerBatch && bytes < kBytesPerBatch) {
        RowInWork next = {.file = static_cast<int32_t>(file), .row = row};
        ANNEAL_ASSIGN_OR_RETURN(more, reader->Next(&next.line));
        if (!more) break;
        ++row;
        bytes += next.line.text.size();
        batch.rows.push_back(std::move(next));
      }
      if (!batch.rows.empty()) pipeline.Submit(std::move(batch));
      while (pipeline.in_flight() >= max_in_flight) {
        ANNEAL_RETURN_IF_ERROR(Consume(pipeline.TakeOldest()));
      }
    }
    if (reader->HexDigest() != report_.files[file].sha256) {
      return absl::AbortedError(absl::StrCat(NameOf(file), " changed while it was being read"));
    }
  }
  while (pipeline.in_flight() > 0) ANNEAL_RETURN_IF_ERROR(Consume(pipeline.TakeOldest()));
  return absl::OkStatus();
}

absl::Status Preparation::Consume(Batch batch) {
  for (const RowInWork& row : batch.rows) ANNEAL_RETURN_IF_ERROR(ConsumeRow(row));
  rows_done_ += static_cast<int64_t>(batch.rows.size());
  hooks_.on_phase(absl::StrCat("tokenising rows ", Grouped(rows_done_), "/", Grouped(total_rows_),
                               " (", 100 * rows_done_ / total_rows_, " %)"));
  return absl::OkStatus();
}

absl::Status Preparation::ConsumeRow(const RowInWork& row) {
  const size_t file = row.file;
  for (const Issue& issue : row.encoded.issues) AddIssue(issue, file, row.line.number);
  switch (row.encoded.fate) {
    case EncodedRow::Fate::kRefused:
      return absl::OkStatus();
    case EncodedRow::Fate::kDropped:
      ++report_.dropped_rows;
      AddIssue({.severity = "WARNING",
                .code = "ROW_DROPPED",
                .message = absl::StrCat("left out: longer than max_length ", task_.max_length),
                .hint = "shorten the row, or raise max_length"},
               file, row.line.number);
      return absl::OkStatus();
    case EncodedRow::Fate::kTruncated:
      ++report_.truncated_rows;
      AddIssue({.severity = "WARNING",
                .code = "ROW_TRUNCATED",
                .message = absl::StrCat("cut to max_length ", task_.max_length),
                .hint = "shorten the row, or raise max_length"},
               file, row.line.number);
      break;
    case EncodedRow::Fate::kKept:
      break;
  }
  const EncodedRow& encoded = row.encoded;
  const bool training = IsTraining(file) && !held_out_.Holds(row.line.text);
  const RowPlace place = {row.file, row.line.number};
  if (!training) {
    twins_.AddValidation(encoded, place);
  } else if (const std::optional<RowPlace> twin = twins_.AddTraining(encoded, place)) {
    ++report_.duplicate_rows;
    AddIssue({.severity = "WARNING",
              .code = "DUPLICATE_ROW",
              .message = absl::StrCat("the same as line ", twin->line, " of ", NameOf(twin->file)),
              .hint = "repeated rows weigh more in training"},
             file, row.line.number);
  }
  (training ? report_.train : report_.validation)
      .Add(static_cast<int64_t>(encoded.token_ids.size()),
           std::count(encoded.loss_weight.begin(), encoded.loss_weight.end(), 1));
  PreparedDatasetWriter* writer = training ? train_writer_.get() : validation_writer_.get();
  // After an error nothing will be published; the rest of the rows is only checked.
  if (writer == nullptr || report_.issues.errors() > 0) return absl::OkStatus();
  return writer->Add({.token_ids = encoded.token_ids,
                      .loss_weight = encoded.loss_weight,
                      .source_file = row.file,
                      .source_row = row.row});
}

void Preparation::ReportLeaks() {
  for (const auto& [validation, training] : twins_.FindLeaks()) {
    ++report_.leaked_rows;
    AddIssue(
        {.severity = "WARNING",
         .code = "LEAKED_ROW",
         .message = absl::StrCat("this validation row is also trained on: line ", training.line,
                                 " of ", NameOf(training.file)),
         .hint = "validation loss will look better than it is; remove the row from one of the two"},
        validation.file, validation.line);
  }
}

// Every row was fine, and yet there is nothing to train on.
void Preparation::CheckTotals() {
  if (report_.issues.errors() > 0 || report_.train.rows > 0) return;
  report_.issues.Add({.severity = "ERROR",
                      .code = "NO_ROWS",
                      .message = "no training rows are left",
                      .hint = report_.dropped_rows > 0 ? "all are longer than max_length"
                                                       : "all were held out for validation"});
}

absl::StatusOr<Prepared> Preparation::Conclude() {
  ReportLeaks();
  CheckTotals();
  Json data_report = ToJson(report_);
  if (output_) {
    if (report_.issues.errors() > 0) {
      ANNEAL_RETURN_IF_ERROR(output_->Clear());
    } else {
      ANNEAL_RETURN_IF_ERROR(train_writer_->Finish().status());
      if (report_.validation.rows > 0) {
        ANNEAL_RETURN_IF_ERROR(validation_writer_->Finish().status());
      }
    }
    // Indented, for people; invalid UTF-8 cannot get here, but must not throw if it does.
    const std::string text = data_report.dump(2, ' ', false, Json::error_handler_t::replace);
    ANNEAL_RETURN_IF_ERROR(output_->Write(kDataReportName, text + "\n"));
    ANNEAL_RETURN_IF_ERROR(output_->Publish(/*replace=*/true));
    if (report_.issues.errors() == 0) KeepInCache();
  }
  return Result(Summarise(report_), std::move(data_report));
}

// The result stands already, so a cache that cannot be written costs a log line.
void Preparation::KeepInCache() {
  if (task_.cache_dir.empty()) return;
  const auto keep = [&]() -> absl::Status {
    ANNEAL_ASSIGN_OR_RETURN(
        OutputFolder entry,
        OutputFolder::Create(absl::StrCat(task_.cache_dir, "/", report_.content_key),
                             absl::StrCat(task_.job, "-g", task_.generation)));
    ANNEAL_RETURN_IF_ERROR(entry.AddAllOf(task_.output_dir));
    return entry.Publish(/*replace=*/false);
  };
  const absl::Status status = keep();
  if (status.ok() || absl::IsAlreadyExists(status)) return;
  ANNEAL_LOG(WARNING) << "prepared data is not cached" << Field("cache", task_.cache_dir)
                      << Field("why", status.ToString());
}

absl::StatusOr<Prepared> Preparation::Run() {
  ANNEAL_RETURN_IF_ERROR(ReadTask());
  ANNEAL_RETURN_IF_ERROR(Survey());
  if (std::optional<Prepared> cached = TakeFromCache()) return *std::move(cached);
  ANNEAL_RETURN_IF_ERROR(OpenWriters());
  ANNEAL_RETURN_IF_ERROR(EncodeAll());
  return Conclude();
}

}  // namespace

absl::StatusOr<Prepared> Prepare(const protocol::PrepareTask& task, const PrepareHooks& hooks) {
  return Preparation(task, hooks).Run();
}

}  // namespace anneal::prepare
