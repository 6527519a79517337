#include "common/format/model_directory.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/base/reasons.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/format/json_file.h"
#include "common/format/model_tensors.h"
#include "common/format/model_weights.h"

namespace anneal {
namespace {

constexpr char kConfig[] = "config.json";
constexpr char kTokenizer[] = "tokenizer.json";
constexpr char kTokenizerConfig[] = "tokenizer_config.json";
constexpr char kChatTemplate[] = "chat_template.jinja";
constexpr char kSingleWeights[] = "model.safetensors";
constexpr char kWeightsIndex[] = "model.safetensors.index.json";

// What belongs to a model beside its weights. The last three are older spellings of what
// tokenizer.json holds, kept because a tuned model's directory should look like its base's.
constexpr const char* kSideFiles[] = {
    kConfig,       "generation_config.json",  kTokenizer,          kTokenizerConfig,
    kChatTemplate, "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",  "tokenizer.model"};
constexpr int64_t kMaxSideFileBytes = int64_t{256} << 20;
constexpr size_t kMaxTokenizerConfigBytes = 64u << 20;

std::string Join(const std::string& directory, absl::string_view name) {
  return absl::StrCat(directory, "/", name);
}

// The size of a regular file, links followed; nullopt if there is none. A pipe or device would
// block whoever opens it.
absl::StatusOr<std::optional<int64_t>> SizeOfFile(const std::string& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return std::nullopt;
    return absl::InvalidArgumentError(
        absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path)).message());
  }
  if (!S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  return static_cast<int64_t>(info.st_size);
}

absl::Status CheckDirectory(const std::string& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0)
    return absl::NotFoundError(absl::StrCat("there is no model directory ", path));
  if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is a file; give the Hugging Face directory that holds config.json"));
  }
  return absl::OkStatus();
}

// Says all that is missing at once, with what the directory looks like instead.
absl::Status CheckNothingLacks(const std::string& path, const std::vector<ModelFile>& files) {
  const auto has = [&](absl::string_view name) {
    return std::any_of(files.begin(), files.end(),
                       [&](const ModelFile& file) { return file.name == name; });
  };
  std::vector<std::string> lacks;
  if (!has(kConfig)) lacks.push_back(kConfig);
  if (!has(kTokenizer)) lacks.push_back(kTokenizer);
  if (!has(kSingleWeights) && !has(kWeightsIndex))
    lacks.push_back("model.safetensors (or its index)");
  if (lacks.empty()) return absl::OkStatus();

  std::string message = absl::StrCat(path, " lacks ", absl::StrJoin(lacks, ", "));
  const auto exists = [&](absl::string_view name) {
    struct stat info = {};
    return ::stat(Join(path, name).c_str(), &info) == 0;
  };
  if (exists("adapter_config.json")) {
    absl::StrAppend(
        &message,
        "; it holds an adapter: give the base model's directory, or merge the adapter into it");
  } else if (exists("pytorch_model.bin") || exists("pytorch_model.bin.index.json")) {
    absl::StrAppend(
        &message,
        "; convert pytorch_model.bin: load it with transformers and call save_pretrained");
  } else if (!has(kTokenizer) && has("tokenizer.model")) {
    absl::StrAppend(&message,
                    "; load its tokenizer with transformers' AutoTokenizer and call "
                    "save_pretrained, which writes ",
                    kTokenizer);
  } else {
    absl::StrAppend(&message,
                    "; a model directory holds config.json, tokenizer.json and *.safetensors, as "
                    "save_pretrained "
                    "and hub downloads make them");
  }
  return WithReason(absl::InvalidArgumentError(message), "MODEL_INCOMPLETE");
}

// `add`s the file if it is there.
absl::Status AddFile(const std::string& directory, const std::string& name,
                     std::vector<ModelFile>& files) {
  ANNEAL_ASSIGN_OR_RETURN(const std::optional<int64_t> size, SizeOfFile(Join(directory, name)));
  if (size.has_value()) files.push_back({name, *size});
  return absl::OkStatus();
}

absl::Status AddSideFiles(const std::string& directory, std::vector<ModelFile>& files) {
  for (const char* name : kSideFiles) {
    ANNEAL_RETURN_IF_ERROR(AddFile(directory, name, files));
    if (!files.empty() && files.back().size_bytes > kMaxSideFileBytes) {
      return absl::InvalidArgumentError(absl::StrCat(Join(directory, files.back().name), " has ",
                                                     files.back().size_bytes, " bytes; at most ",
                                                     kMaxSideFileBytes, " are read"));
    }
  }
  return absl::OkStatus();
}

// Weight files of an index become lines of the content hash, so their names must be plain.
absl::Status AddShards(const std::string& directory, const ModelWeights& weights,
                       std::vector<ModelFile>& files) {
  constexpr absl::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  for (const std::string& path : weights.paths()) {
    const std::string name = path.substr(directory.size() + 1);
    if (name == kSingleWeights) continue;
    if (absl::string_view(name).find_first_not_of(kPlain) != absl::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": names of weight files are letters, digits, '.', '_' and '-'"));
    }
    ANNEAL_RETURN_IF_ERROR(AddFile(directory, name, files));
  }
  return absl::OkStatus();
}

// transformers reads chat_template.jinja first, then tokenizer_config.json's chat_template: a
// string, or a list of named ones.
absl::StatusOr<bool> HasChatTemplate(const std::string& directory,
                                     const std::vector<ModelFile>& files, const FileOpener& open) {
  bool has_config = false;
  for (const ModelFile& file : files) {
    if (file.name == kChatTemplate) return file.size_bytes > 0;
    has_config |= file.name == kTokenizerConfig;
  }
  if (!has_config) return false;
  ANNEAL_ASSIGN_OR_RETURN(const Json json,
                          ReadJsonFile(Join(directory, kTokenizerConfig),
                                       {.max_bytes = kMaxTokenizerConfigBytes}, open));
  if (!json.is_object())
    return absl::InvalidArgumentError(
        absl::StrCat(Join(directory, kTokenizerConfig), " is no JSON object"));
  const auto found = json.find("chat_template");
  return found != json.end() && (found->is_string() || found->is_array()) && !found->empty();
}

absl::StatusOr<ModelConfig> ReadConfig(const std::string& directory, const FileOpener& open) {
  const std::string path = Join(directory, kConfig);
  ANNEAL_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path, {.max_bytes = 1 << 20}, open));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(json);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

absl::Status ModelHasChanged(const std::string& path, absl::string_view how) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat("the model directory ", path,
                                                 " has changed since the job was created: ", how)),
      kModelChanged);
}

std::string HashOf(const ModelDigests& digests) {
  Sha256 hash;
  for (const auto& [name, digest] : digests) hash.Update(absl::StrCat(digest, "  ", name, "\n"));
  return hash.HexDigest();
}

}  // namespace

absl::StatusOr<ModelDirectory> ReadModelDirectory(const std::string& path, const FileOpener& open) {
  ANNEAL_RETURN_IF_ERROR(CheckDirectory(path));
  ModelDirectory model;
  model.path = path;
  ANNEAL_RETURN_IF_ERROR(AddSideFiles(path, model.files));
  ANNEAL_RETURN_IF_ERROR(AddFile(path, kSingleWeights, model.files));
  // As in transformers, an index beside a single file is not looked at.
  if (model.files.empty() || model.files.back().name != kSingleWeights) {
    ANNEAL_RETURN_IF_ERROR(AddFile(path, kWeightsIndex, model.files));
  }
  ANNEAL_RETURN_IF_ERROR(CheckNothingLacks(path, model.files));

  ANNEAL_ASSIGN_OR_RETURN(model.config, ReadConfig(path, open));
  ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<ModelWeights> weights, ModelWeights::Open(path));
  ANNEAL_RETURN_IF_ERROR(Annotate(weights->CheckAgainst(model.config), path));
  ANNEAL_RETURN_IF_ERROR(AddShards(path, *weights, model.files));
  ANNEAL_ASSIGN_OR_RETURN(model.has_chat_template, HasChatTemplate(path, model.files, open));

  model.parameters = ParameterCount(model.config);
  std::sort(model.files.begin(), model.files.end(),
            [](const ModelFile& a, const ModelFile& b) { return a.name < b.name; });
  for (const ModelFile& file : model.files) model.size_bytes += file.size_bytes;
  return model;
}

FileHashCache::FileHashCache(Clock& clock) : FileHashCache(clock, &Sha256OfOpenFile) {}

absl::StatusOr<std::string> FileHashCache::Sha256Of(const std::string& path,
                                                    const FileOpener& open) {
  // Opened even if the hash is known: whoever asks must be allowed to read it.
  ANNEAL_ASSIGN_OR_RETURN(const UniqueFd file, open(path));
  struct stat info = {};
  if (::fstat(file.get(), &info) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  const Identity identity(info.st_dev, info.st_ino, info.st_size, info.st_ctim.tv_sec,
                          info.st_ctim.tv_nsec);
  {
    const auto is_free = [&]()
                             ABSL_SHARED_LOCKS_REQUIRED(mu_) { return reading_.count(path) == 0; };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&is_free));
    const auto found = hashes_.find(path);
    if (found != hashes_.end() && found->second.first == identity) return found->second.second;
    reading_.insert(path);
  }
  absl::StatusOr<std::string> hash = hasher_(file.get(), path);
  absl::MutexLock lock(&mu_);
  reading_.erase(path);
  if (hash.ok() && clock_.TimeNow() - absl::TimeFromTimespec(info.st_ctim) > absl::Seconds(2))
    hashes_[path] = {identity, *hash};
  return hash;
}

absl::StatusOr<ModelDigests> DigestModel(const ModelDirectory& model, FileHashCache& cache,
                                         const FileOpener& open) {
  ModelDigests digests;
  for (const ModelFile& file : model.files) {
    ANNEAL_ASSIGN_OR_RETURN(digests[file.name], cache.Sha256Of(Join(model.path, file.name), open));
  }
  return digests;
}

absl::StatusOr<std::string> ModelContentHash(const ModelDirectory& model, FileHashCache& cache,
                                             const FileOpener& open) {
  ANNEAL_ASSIGN_OR_RETURN(const ModelDigests digests, DigestModel(model, cache, open));
  return HashOf(digests);
}

absl::StatusOr<ModelDigests> CheckModelUnchanged(const std::string& path,
                                                 absl::string_view content_hash) {
  const absl::StatusOr<ModelDirectory> model = ReadModelDirectory(path);
  if (!model.ok()) return ModelHasChanged(path, model.status().message());
  FileHashCache cache(Clock::Real());
  ANNEAL_ASSIGN_OR_RETURN(ModelDigests digests, DigestModel(*model, cache));
  const std::string hash = HashOf(digests);
  if (hash == content_hash) return digests;
  return ModelHasChanged(path,
                         absl::StrCat("its content hash was ", content_hash, " and is ", hash));
}

absl::StatusOr<std::string> ReadModelFile(const std::string& path, const std::string& name,
                                          const ModelDigests& digests) {
  const auto read = [&]() -> absl::StatusOr<std::string> {
    ANNEAL_ASSIGN_OR_RETURN(const UniqueFd file, OpenRegularFile(Join(path, name)));
    return ReadOpenFile(file.get(), Join(path, name), kMaxSideFileBytes);
  };
  absl::StatusOr<std::string> text = read();
  if (digests.empty()) return text;
  if (!text.ok()) return ModelHasChanged(path, text.status().message());
  const auto digest = digests.find(name);
  if (digest == digests.end()) return ModelHasChanged(path, absl::StrCat(name, " is new"));
  if (Sha256Hex(*text) == digest->second) return text;
  return ModelHasChanged(path, absl::StrCat(name, " holds other bytes"));
}

}  // namespace anneal
