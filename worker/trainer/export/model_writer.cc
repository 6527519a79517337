#include "worker/trainer/export/model_writer.h"

#include <filesystem>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/format/json.h"
#include "common/format/model_directory.h"
#include "common/format/model_tensors.h"
#include "worker/trainer/export/end_of_turn.h"
#include "worker/trainer/export/tensor_file.h"

namespace anneal::trainer {
namespace {

constexpr char kConfig[] = "config.json";
constexpr char kGenerationConfig[] = "generation_config.json";
constexpr size_t kMaxSideFileBytes = size_t{256} << 20;

absl::Status WriteJson(const std::string& path, const Json& json) {
  return WriteFileAtomically(path, json.dump(2) + "\n");
}

absl::Status WriteConfig(const std::string& base_dir, at::ScalarType dtype,
                         const std::string& out_dir) {
  ANNEAL_ASSIGN_OR_RETURN(Json config, ReadJsonFile(absl::StrCat(base_dir, "/", kConfig)));
  const char* name = dtype == at::kFloat ? "float32" : "bfloat16";
  // transformers 5 writes "dtype" and reads both; older versions know "torch_dtype" only.
  if (config.contains("dtype")) config["dtype"] = name;
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = name;
  return WriteJson(absl::StrCat(out_dir, "/", kConfig), config);
}

// A server stops at the tokens listed here.
absl::Status WriteGenerationConfig(const std::string& base_dir, const ModelConfig& config,
                                   const std::string& out_dir) {
  Json generation = Json::object();
  const std::string base_path = absl::StrCat(base_dir, "/", kGenerationConfig);
  if (std::filesystem::exists(base_path)) {
    ANNEAL_ASSIGN_OR_RETURN(generation, ReadJsonFile(base_path));
    if (!generation.is_object())
      return absl::InvalidArgumentError(absl::StrCat(base_path, " is not a JSON object"));
  }
  ANNEAL_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, EndOfTurnTokens(base_dir, config));
  if (!ids.empty()) generation["eos_token_id"] = ids;
  return WriteJson(absl::StrCat(out_dir, "/", kGenerationConfig), generation);
}

absl::Status CopySideFiles(const std::string& base_dir, const std::string& out_dir) {
  ANNEAL_ASSIGN_OR_RETURN(const ModelDirectory base, ReadModelDirectory(base_dir));
  for (const ModelFile& file : base.files) {
    const bool weights = absl::EndsWith(file.name, ".safetensors") ||
                         absl::EndsWith(file.name, ".safetensors.index.json");
    if (weights || file.name == kConfig || file.name == kGenerationConfig) continue;
    ANNEAL_ASSIGN_OR_RETURN(
        const std::string text,
        ReadSmallFile(absl::StrCat(base_dir, "/", file.name), kMaxSideFileBytes));
    ANNEAL_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(out_dir, "/", file.name), text));
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

absl::Status WriteModelDirectory(const std::string& base_dir, const ModelConfig& config,
                                 const WeightSource& weights, const ModelWriterOptions& options,
                                 const std::string& out_dir) {
  std::error_code error;
  std::filesystem::create_directories(out_dir, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot make ", out_dir));
  ANNEAL_RETURN_IF_ERROR(CopySideFiles(base_dir, out_dir));
  ANNEAL_RETURN_IF_ERROR(WriteConfig(base_dir, options.dtype, out_dir));
  ANNEAL_RETURN_IF_ERROR(WriteGenerationConfig(base_dir, config, out_dir));
  return WriteWeights(config, weights, options, out_dir);
}

}  // namespace anneal::trainer
