#include "common/format/model_weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/format/model_tensors.h"

namespace anneal {
namespace {

constexpr size_t kMaxShards = 10'000;
constexpr size_t kMaxIndexBytes = 64u << 20;

// tensor -> file name, from the index's "weight_map".
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(const Json json,
                          ReadJsonFile(path, {.max_bytes = kMaxIndexBytes, .max_depth = 8}));
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": weight_map is missing or not an object"));
  }
  std::map<std::string, std::string> out;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    if (!file.is_string())
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": weight_map.", tensor, " is not a string"));
    const std::string& name = file.get_ref<const std::string&>();
    if (name.find('/') != std::string::npos || name.find('\0') != std::string::npos ||
        !absl::EndsWith(name, ".safetensors")) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": weight_map.", tensor, " = ", DumpJson(file),
                       " is not the name of a .safetensors file in the same directory"));
    }
    out[tensor] = name;
  }
  return out;
}

// Whether an element's exponent is all ones, as that of infinities and NaNs only.
template <typename Bits>
bool HoldsExponent(absl::Span<const std::byte> bytes, Bits exponent) {
  std::array<Bits, 4096 / sizeof(Bits)> block;
  while (!bytes.empty()) {
    // A copy: the file promises no alignment.
    const size_t count = std::min(block.size(), bytes.size() / sizeof(Bits));
    std::memcpy(block.data(), bytes.data(), count * sizeof(Bits));
    bool found = false;
    for (size_t i = 0; i < count; ++i) found |= (block[i] & exponent) == exponent;
    if (found) return true;
    bytes.remove_prefix(count * sizeof(Bits));
  }
  return false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelWeights>> ModelWeights::Open(const std::string& model_dir) {
  std::unique_ptr<ModelWeights> weights(new ModelWeights);
  const std::string single = absl::StrCat(model_dir, "/model.safetensors");
  const std::string index_path = absl::StrCat(single, ".index.json");
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored)) {
    ANNEAL_RETURN_IF_ERROR(weights->AddFile(single));
    return weights;
  }
  if (!std::filesystem::exists(index_path, ignored)) {
    return absl::NotFoundError(absl::StrCat(
        model_dir,
        " holds neither model.safetensors nor model.safetensors.index.json; weights in "
        "other formats must be converted to safetensors first"));
  }
  ANNEAL_ASSIGN_OR_RETURN(const auto index, ReadIndex(index_path));
  std::set<std::string> names;
  for (const auto& [tensor, file] : index) names.insert(file);
  if (names.size() > kMaxShards) {
    return absl::InvalidArgumentError(
        absl::StrCat(index_path, ": ", names.size(), " files are over the limit of ", kMaxShards));
  }
  for (const std::string& name : names) {
    ANNEAL_RETURN_IF_ERROR(weights->AddFile(absl::StrCat(model_dir, "/", name)));
  }
  for (const auto& [tensor, file] : index) {
    const auto it = weights->tensors_.find(tensor);
    const std::string path = absl::StrCat(model_dir, "/", file);
    if (it == weights->tensors_.end() || it->second.file->path() != path) {
      return absl::InvalidArgumentError(absl::StrCat(index_path, ": tensor \"", tensor,
                                                     "\" is not in ", file, " as weight_map says"));
    }
  }
  return weights;
}

absl::Status ModelWeights::AddFile(const std::string& path) {
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::Open(path));
  for (const auto& [name, view] : file->tensors()) {
    const auto [it, inserted] = tensors_.emplace(name, Entry{file.get(), &view});
    if (!inserted) {
      return absl::InvalidArgumentError(absl::StrCat("tensor \"", name, "\" is both in ",
                                                     it->second.file->path(), " and in ", path));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

std::vector<std::string> ModelWeights::paths() const {
  std::vector<std::string> out;
  for (const auto& file : files_) out.push_back(file->path());
  return out;
}

absl::Status ModelWeights::CheckAgainst(const ModelConfig& config) const {
  std::set<std::string> expected;
  for (const ExpectedTensor& tensor : AllTensors(config)) {
    const auto it = tensors_.find(tensor.name);
    if (it == tensors_.end()) {
      return absl::InvalidArgumentError(absl::StrCat("the weights lack tensor \"", tensor.name,
                                                     "\" of shape ", ShapeToString(tensor.shape)));
    }
    const auto& [file, view] = it->second;
    const std::string where = absl::StrCat(file->path(), ": tensor \"", tensor.name, "\"");
    if (view->shape != tensor.shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, " has shape ", ShapeToString(view->shape),
                       " where config.json asks for ", ShapeToString(tensor.shape)));
    }
    if (view->dtype != DType::kF32 && view->dtype != DType::kF16 && view->dtype != DType::kBf16) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, " holds ", DTypeName(view->dtype), "; supported: F32, F16, BF16"));
    }
    expected.insert(tensor.name);
  }
  for (const auto& [name, entry] : tensors_) {
    const bool harmless = (config.tie_word_embeddings && name == "lm_head.weight") ||
                          absl::EndsWith(name, ".rotary_emb.inv_freq");
    if (!harmless && !expected.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat(entry.file->path(), ": tensor \"", name,
                                                     "\" belongs to no part of a ", config.family,
                                                     " model with this config.json"));
    }
  }
  return absl::OkStatus();
}

absl::Status ModelWeights::CheckFinite(const std::string& name, const Entry& entry) {
  const TensorView& view = *entry.view;
  const bool bad = view.dtype == DType::kF32    ? HoldsExponent<uint32_t>(view.bytes, 0x7f800000)
                   : view.dtype == DType::kF16  ? HoldsExponent<uint16_t>(view.bytes, 0x7c00)
                   : view.dtype == DType::kBf16 ? HoldsExponent<uint16_t>(view.bytes, 0x7f80)
                                                : false;
  if (!bad) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(entry.file->path(), ": tensor \"", name, "\" holds NaN or infinity"));
}

absl::Status ModelWeights::CheckFinite() const {
  for (const auto& [name, entry] : tensors_) ANNEAL_RETURN_IF_ERROR(CheckFinite(name, entry));
  return absl::OkStatus();
}

}  // namespace anneal
