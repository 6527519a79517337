#include "common/format/prepared_dataset.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace anneal {
namespace {

constexpr absl::string_view kFormatName = "anneal.prepared_dataset";
constexpr absl::string_view kVersion = "1";
constexpr size_t kAlignment = 64;  // of each array, so that a cache line or vector never spans two
// Names in the file.
constexpr char kOffsets[] = "example_offsets";
constexpr char kSourceRow[] = "source_row";
constexpr char kSourceFile[] = "source_file";
constexpr char kSupervised[] = "supervised_tokens";
constexpr char kTokenIds[] = "token_ids";
constexpr char kLossWeight[] = "loss_weight";

// The integers of PreparedDatasetInfo under their names in the metadata.
template <typename Info, typename Fn>
void ForEachNumber(Info& info, Fn fn) {
  fn("vocab_size", info.vocab_size);
  fn("max_length", info.max_length);
  fn("examples", info.examples);
  fn("tokens", info.tokens);
  fn("supervised_tokens", info.supervised_tokens);
  fn("longest_example", info.longest_example);
}

std::map<std::string, std::string> MetadataOf(const PreparedDatasetInfo& info) {
  std::map<std::string, std::string> metadata = {{"format", std::string(kFormatName)},
                                                 {"version", std::string(kVersion)},
                                                 {"content_key", info.content_key}};
  ForEachNumber(info,
                [&](const char* name, int64_t value) { metadata[name] = absl::StrCat(value); });
  return metadata;
}

absl::StatusOr<std::string> FindMetadata(const SafetensorsFile& file, const std::string& key) {
  const auto it = file.metadata().find(key);
  if (it == file.metadata().end()) {
    return absl::InvalidArgumentError(absl::StrCat("no metadata \"", key, "\""));
  }
  return it->second;
}

template <typename T>
absl::StatusOr<absl::Span<const T>> FindArray(const SafetensorsFile& file, const char* name,
                                              int64_t elements) {
  ANNEAL_ASSIGN_OR_RETURN(const TensorView* tensor, file.Find(name));
  if (tensor->shape != std::vector<int64_t>{elements}) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has shape ", ShapeToString(tensor->shape), ", not [", elements, "]"));
  }
  absl::StatusOr<absl::Span<const T>> values = tensor->Values<T>();
  if (!values.ok()) return Annotate(values.status(), name);
  return values;
}

// Checks one row against the rules of the format; used by writer and reader alike.
absl::Status CheckRow(const PreparedExample& row, const PreparedDatasetInfo& info) {
  const int64_t length = static_cast<int64_t>(row.token_ids.size());
  if (length == 0) return absl::InvalidArgumentError("no tokens");
  if (length > info.max_length) {
    return absl::InvalidArgumentError(
        absl::StrCat(length, " tokens are over max_length ", info.max_length));
  }
  if (row.loss_weight.size() != row.token_ids.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(row.loss_weight.size(), " weights for ", length, " tokens"));
  }
  for (const int32_t id : row.token_ids) {
    if (id < 0 || id >= info.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside the vocabulary of ", info.vocab_size));
    }
  }
  if (row.loss_weight[0] != 0) {
    return absl::InvalidArgumentError("the first token counts for the loss");
  }
  if (std::any_of(row.loss_weight.begin(), row.loss_weight.end(),
                  [](uint8_t weight) { return weight > 1; })) {
    return absl::InvalidArgumentError("a loss weight is neither 0 nor 1");
  }
  return absl::OkStatus();
}

int32_t SumOf(absl::Span<const uint8_t> weights) {
  return std::accumulate(weights.begin(), weights.end(), int32_t{0});
}

std::string FolderOf(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder.string();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PreparedDataset>> PreparedDataset::Open(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::Open(path));
  std::unique_ptr<PreparedDataset> dataset(new PreparedDataset(std::move(file)));
  absl::Status status = dataset->ReadInfo();
  if (status.ok()) status = dataset->MapArrays();
  if (status.ok()) status = dataset->CheckExamples();
  if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.message()));
  return dataset;
}

absl::Status PreparedDataset::ReadInfo() {
  ANNEAL_ASSIGN_OR_RETURN(const std::string format, FindMetadata(*file_, "format"));
  ANNEAL_ASSIGN_OR_RETURN(const std::string version, FindMetadata(*file_, "version"));
  if (format != kFormatName || version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat("is \"", format, "\" version ", version,
                                                   ", not ", kFormatName, " version ", kVersion));
  }
  ANNEAL_ASSIGN_OR_RETURN(info_.content_key, FindMetadata(*file_, "content_key"));
  absl::Status status;
  ForEachNumber(info_, [&](const char* name, int64_t& value) {
    const absl::StatusOr<std::string> text = FindMetadata(*file_, name);
    if (!text.ok()) {
      status.Update(text.status());
    } else if (!absl::SimpleAtoi(*text, &value) || value <= 0) {
      status.Update(absl::InvalidArgumentError(
          absl::StrCat("metadata ", name, " is not a positive number: ", *text)));
    }
  });
  return status;
}

absl::Status PreparedDataset::MapArrays() {
  if (info_.examples == std::numeric_limits<int64_t>::max()) {
    return absl::InvalidArgumentError("examples overflow");
  }
  ANNEAL_ASSIGN_OR_RETURN(offsets_, FindArray<int64_t>(*file_, kOffsets, info_.examples + 1));
  ANNEAL_ASSIGN_OR_RETURN(source_row_, FindArray<int64_t>(*file_, kSourceRow, info_.examples));
  ANNEAL_ASSIGN_OR_RETURN(source_file_, FindArray<int32_t>(*file_, kSourceFile, info_.examples));
  ANNEAL_ASSIGN_OR_RETURN(supervised_tokens_,
                          FindArray<int32_t>(*file_, kSupervised, info_.examples));
  ANNEAL_ASSIGN_OR_RETURN(token_ids_, FindArray<int32_t>(*file_, kTokenIds, info_.tokens));
  ANNEAL_ASSIGN_OR_RETURN(loss_weight_, FindArray<uint8_t>(*file_, kLossWeight, info_.tokens));
  return absl::OkStatus();
}

absl::Status PreparedDataset::CheckExamples() const {
  if (offsets_.front() != 0 || offsets_.back() != info_.tokens) {
    return absl::InvalidArgumentError(absl::StrCat("example_offsets run from ", offsets_.front(),
                                                   " to ", offsets_.back(), ", not from 0 to ",
                                                   info_.tokens));
  }
  int64_t longest = 0, supervised = 0;
  for (int64_t i = 0; i < info_.examples; ++i) {
    // Offsets that grow from 0 to `tokens` cannot leave that range, so the difference does not
    // overflow where it is positive.
    if (offsets_[i + 1] <= offsets_[i] || offsets_[i + 1] > info_.tokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("example ", i, " goes from token ", offsets_[i], " to ", offsets_[i + 1]));
    }
    if (supervised_tokens_[i] < 1 || supervised_tokens_[i] >= length(i)) {
      return absl::InvalidArgumentError(absl::StrCat("example ", i, " has ", supervised_tokens_[i],
                                                     " supervised tokens of ", length(i)));
    }
    if (source_file_[i] < 0 || source_row_[i] < 0) {
      return absl::InvalidArgumentError(absl::StrCat("example ", i, " has a negative source"));
    }
    longest = std::max(longest, length(i));
    supervised += supervised_tokens_[i];
  }
  if (longest != info_.longest_example || longest > info_.max_length) {
    return absl::InvalidArgumentError(
        absl::StrCat("the longest example has ", longest, " tokens; the metadata say ",
                     info_.longest_example, " and max_length ", info_.max_length));
  }
  if (supervised != info_.supervised_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        supervised, " tokens are supervised; the metadata say ", info_.supervised_tokens));
  }
  return absl::OkStatus();
}

absl::StatusOr<PreparedExample> PreparedDataset::Example(int64_t example) const {
  ANNEAL_CHECK(example >= 0 && example < size());
  const PreparedExample row = {
      .token_ids = token_ids_.subspan(offsets_[example], length(example)),
      .loss_weight = loss_weight_.subspan(offsets_[example], length(example)),
      .source_file = source_file_[example],
      .source_row = source_row_[example]};
  absl::Status status = CheckRow(row, info_);
  if (status.ok() && SumOf(row.loss_weight) != supervised_tokens_[example]) {
    status = absl::InvalidArgumentError(absl::StrCat(
        "its weights add up to ", SumOf(row.loss_weight), ", not ", supervised_tokens_[example]));
  }
  if (!status.ok()) return Annotate(status, absl::StrCat(path(), ": example ", example));
  return row;
}

// One array on its way: an unnamed temporary file in the folder of the result, so that it vanishes
// with the process.
class PreparedDatasetWriter::Column {
 public:
  static absl::StatusOr<std::unique_ptr<Column>> Create(const std::string& path, const char* name) {
    const std::string temporary = absl::StrCat(path, ".", name, ".tmp");
    std::FILE* file = std::fopen(temporary.c_str(), "w+be");
    if (file == nullptr) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot create ", temporary));
    }
    ::unlink(temporary.c_str());
    return std::unique_ptr<Column>(new Column(name, file));
  }
  ~Column() { std::fclose(file_); }

  template <typename T>
  absl::Status Append(absl::Span<const T> values) {
    dtype_ = DTypeOf<T>();
    elements_ += static_cast<int64_t>(values.size());
    if (std::fwrite(values.data(), sizeof(T), values.size(), file_) == values.size()) {
      return absl::OkStatus();
    }
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write the temporary of ", name_));
  }
  template <typename T>
  absl::Status Append(T value) {
    return Append(absl::MakeConstSpan(&value, 1));
  }

  TensorSpec spec() const { return {name_, dtype_, {elements_}}; }
  absl::Status CopyTo(SafetensorsWriter& writer) {
    if (std::fseek(file_, 0, SEEK_SET) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot rewind ", name_));
    }
    std::vector<std::byte> buffer(1 << 20);
    size_t got;
    while ((got = std::fread(buffer.data(), 1, buffer.size(), file_)) > 0) {
      ANNEAL_RETURN_IF_ERROR(writer.Append(name_, absl::MakeConstSpan(buffer.data(), got)));
    }
    if (std::ferror(file_)) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot read the temporary of ", name_));
    }
    return absl::OkStatus();
  }

 private:
  Column(const char* name, std::FILE* file) : name_(name), file_(file) {}

  const std::string name_;
  std::FILE* const file_;
  DType dtype_ = DType::kU8;
  int64_t elements_ = 0;
};

PreparedDatasetWriter::PreparedDatasetWriter(const std::string& path,
                                             const PreparedDatasetInfo& info)
    : path_(path),
      info_{.content_key = info.content_key,
            .vocab_size = info.vocab_size,
            .max_length = info.max_length} {}
PreparedDatasetWriter::~PreparedDatasetWriter() = default;

absl::StatusOr<std::unique_ptr<PreparedDatasetWriter>> PreparedDatasetWriter::Create(
    const std::string& path, const PreparedDatasetInfo& info) {
  std::unique_ptr<PreparedDatasetWriter> writer(new PreparedDatasetWriter(path, info));
  ANNEAL_ASSIGN_OR_RETURN(writer->offsets_, Column::Create(path, kOffsets));
  ANNEAL_ASSIGN_OR_RETURN(writer->source_row_, Column::Create(path, kSourceRow));
  ANNEAL_ASSIGN_OR_RETURN(writer->source_file_, Column::Create(path, kSourceFile));
  ANNEAL_ASSIGN_OR_RETURN(writer->supervised_tokens_, Column::Create(path, kSupervised));
  ANNEAL_ASSIGN_OR_RETURN(writer->token_ids_, Column::Create(path, kTokenIds));
  ANNEAL_ASSIGN_OR_RETURN(writer->loss_weight_, Column::Create(path, kLossWeight));
  ANNEAL_RETURN_IF_ERROR(writer->offsets_->Append(int64_t{0}));
  return writer;
}

absl::Status PreparedDatasetWriter::Add(const PreparedExample& example) {
  ANNEAL_RETURN_IF_ERROR(CheckRow(example, info_));
  const int32_t supervised = SumOf(example.loss_weight);
  if (supervised == 0) return absl::InvalidArgumentError("no token counts for the loss");
  const int64_t length = static_cast<int64_t>(example.token_ids.size());
  info_.examples += 1;
  info_.tokens += length;
  info_.supervised_tokens += supervised;
  info_.longest_example = std::max(info_.longest_example, length);
  ANNEAL_RETURN_IF_ERROR(offsets_->Append(info_.tokens));
  ANNEAL_RETURN_IF_ERROR(source_row_->Append(example.source_row));
  ANNEAL_RETURN_IF_ERROR(source_file_->Append(example.source_file));
  ANNEAL_RETURN_IF_ERROR(supervised_tokens_->Append(supervised));
  ANNEAL_RETURN_IF_ERROR(token_ids_->Append(example.token_ids));
  return loss_weight_->Append(example.loss_weight);
}

absl::StatusOr<PreparedDatasetInfo> PreparedDatasetWriter::Finish() {
  if (info_.examples == 0) {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": no rows to write"));
  }
  const std::string assembled = path_ + ".tmp";
  absl::Status status = Assemble(assembled);
  if (status.ok() && std::rename(assembled.c_str(), path_.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", assembled));
  }
  if (status.ok()) status = SyncFolder(FolderOf(path_));
  if (!status.ok()) {
    ::unlink(assembled.c_str());
    return status;
  }
  return info_;
}

absl::Status PreparedDatasetWriter::Assemble(const std::string& path) {
  const std::array<Column*, 6> columns = {offsets_.get(),     source_row_.get(),
                                          source_file_.get(), supervised_tokens_.get(),
                                          token_ids_.get(),   loss_weight_.get()};
  std::vector<TensorSpec> specs;
  for (const Column* column : columns) specs.push_back(column->spec());
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsWriter> writer,
                          SafetensorsWriter::Create(path, specs, MetadataOf(info_), kAlignment));
  for (Column* column : columns) ANNEAL_RETURN_IF_ERROR(column->CopyTo(*writer));
  return writer->Finish();
}

}  // namespace anneal
