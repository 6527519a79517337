#pragma once
// The weights of a Hugging Face model directory: model.safetensors, or shards named by
// model.safetensors.index.json.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/format/model_config.h"
#include "common/format/safetensors.h"

namespace anneal {

// All weight files of a directory, mapped for the object's life. Immutable, so thread-safe.
class ModelWeights {
 public:
  // NOT_FOUND if the directory holds no safetensors weights. The index may name only files of the
  // directory itself, and each tensor must be in the file that the index gives for it and in no
  // other.
  static absl::StatusOr<std::unique_ptr<ModelWeights>> Open(const std::string& model_dir);

  struct Entry {
    const SafetensorsFile* file;
    const TensorView* view;
  };
  const std::map<std::string, Entry>& tensors() const { return tensors_; }
  // The weight files, in the order of their names.
  std::vector<std::string> paths() const;

  // Whether these are exactly the weights of such a model: all there, of the right shapes, of a
  // floating-point type (F32, F16, BF16), and nothing that would be left unused. A copy of the
  // embedding stored as lm_head of a tied model is allowed, and so are the rotary tables that old
  // checkpoints carry. Errors name file, tensor and both shapes.
  absl::Status CheckAgainst(const ModelConfig& config) const;

  // INVALID_ARGUMENT names the file and the tensor if one holds NaN or infinity. Reads every byte.
  absl::Status CheckFinite() const;
  static absl::Status CheckFinite(const std::string& name, const Entry& entry);

 private:
  ModelWeights() = default;
  absl::Status AddFile(const std::string& path);

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Entry> tensors_;
};

}  // namespace anneal
