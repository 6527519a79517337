#include "worker/trainer/export/model_writer.h"

#include <filesystem>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/format/model_tensors.h"
#include "worker/trainer/export/end_of_turn.h"
#include "worker/trainer/export/tensor_file.h"

namespace anneal::trainer {
namespace {

constexpr char kConfig[] = "config.json";
constexpr char kGenerationConfig[] = "generation_config.json";

absl::Status WriteJson(const std::string& path, const Json& json) {
  return WriteFileAtomically(path, json.dump(2) + "\n");
}

// `out_dir` holds a copy of the base's.
absl::Status WriteConfig(at::ScalarType dtype, const std::string& out_dir) {
  const std::string path = absl::StrCat(out_dir, "/", kConfig);
  ANNEAL_ASSIGN_OR_RETURN(Json config, ReadJsonFile(path));
  const char* name = dtype == at::kFloat ? "float32" : "bfloat16";
  // transformers 5 writes "dtype" and reads both; older versions know "torch_dtype" only.
  if (config.contains("dtype")) config["dtype"] = name;
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = name;
  return WriteJson(path, config);
}

// A server stops at the tokens listed here. `out_dir` holds copies of the base's files.
absl::Status WriteGenerationConfig(const ModelConfig& config, const std::string& out_dir) {
  Json generation = Json::object();
  const std::string path = absl::StrCat(out_dir, "/", kGenerationConfig);
  if (std::filesystem::exists(path)) {
    ANNEAL_ASSIGN_OR_RETURN(generation, ReadJsonFile(path));
    if (!generation.is_object())
      return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object"));
  }
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, EndOfTurnTokens(out_dir, config));
  if (!ids.empty()) generation["eos_token_id"] = ids;
  return WriteJson(path, generation);
}

// Names of the base's files, as they were when it was loaded where that is known.
absl::StatusOr<std::vector<std::string>> FilesOf(const BaseFiles& base) {
  std::vector<std::string> names;
  for (const auto& [name, digest] : base.digests) names.push_back(name);
  if (!names.empty()) return names;
  ANNEAL_ASSIGN_OR_RETURN(const ModelDirectory model, ReadModelDirectory(base.dir));
  for (const ModelFile& file : model.files) names.push_back(file.name);
  return names;
}

// What is written is what was read and has the right hash: whatever is done to the base's folder
// meanwhile, no other file's bytes get into the model.
absl::Status CopySideFiles(const BaseFiles& base, const std::string& out_dir) {
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesOf(base));
  for (const std::string& name : names) {
    if (absl::EndsWith(name, ".safetensors") || absl::EndsWith(name, ".safetensors.index.json"))
      continue;
    ANNEAL_ASSIGN_OR_RETURN(const std::string text, ReadModelFile(base.dir, name, base.digests));
    ANNEAL_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(out_dir, "/", name), text));
  }
  return absl::OkStatus();
}

int64_t StoredBytes(const ExpectedTensor& tensor, at::ScalarType dtype) {
  int64_t bytes = static_cast<int64_t>(DTypeBytes(StoredType(dtype)));
  for (int64_t extent : tensor.shape) bytes *= extent;
  return bytes;
}

// Tensors in order, cut where the next would make a file too large.
std::vector<std::vector<ExpectedTensor>> PlanShards(const ModelConfig& config,
                                                    const ModelWriterOptions& options) {
  std::vector<std::vector<ExpectedTensor>> shards(1);
  int64_t bytes = 0;
  for (ExpectedTensor& tensor : AllTensors(config)) {
    const int64_t more = StoredBytes(tensor, options.dtype);
    if (!shards.back().empty() && bytes + more > options.max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += more;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

absl::Status WriteWeights(const ModelConfig& config, const WeightSource& weights,
                          const ModelWriterOptions& options, const std::string& out_dir) {
  const std::vector<std::vector<ExpectedTensor>> shards = PlanShards(config, options);
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string file = shards.size() == 1 ? "model.safetensors"
                                                : absl::StrFormat("model-%05d-of-%05d.safetensors",
                                                                  i + 1, shards.size());
    std::vector<TensorSpec> specs;
    for (const ExpectedTensor& tensor : shards[i]) {
      specs.push_back({tensor.name, StoredType(options.dtype), tensor.shape});
      total += StoredBytes(tensor, options.dtype);
      index["weight_map"][tensor.name] = file;
    }
    const auto stored = [&](const std::string& name) -> absl::StatusOr<at::Tensor> {
      ANNEAL_ASSIGN_OR_RETURN(const at::Tensor value, weights(name));
      return value.to(at::kCPU, options.dtype).contiguous();
    };
    ANNEAL_RETURN_IF_ERROR(WriteTensorFile(absl::StrCat(out_dir, "/", file), specs, stored));
  }
  if (shards.size() == 1) return absl::OkStatus();
  index["metadata"]["total_size"] = total;
  return WriteJson(absl::StrCat(out_dir, "/model.safetensors.index.json"), index);
}

}  // namespace

absl::Status WriteModelDirectory(const BaseFiles& base, const ModelConfig& config,
                                 const WeightSource& weights, const ModelWriterOptions& options,
                                 const std::string& out_dir) {
  std::error_code error;
  std::filesystem::create_directories(out_dir, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot make ", out_dir));
  ANNEAL_RETURN_IF_ERROR(CopySideFiles(base, out_dir));
  ANNEAL_RETURN_IF_ERROR(WriteConfig(options.dtype, out_dir));
  ANNEAL_RETURN_IF_ERROR(WriteGenerationConfig(config, out_dir));
  return WriteWeights(config, weights, options, out_dir);
}

}  // namespace anneal::trainer
