#pragma once
// Writes a Hugging Face model directory: the base's files with new weights.

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/format/model_config.h"
#include "common/format/model_directory.h"

namespace anneal::trainer {

// The final value of a weight by its name in AllTensors, in any floating-point type and on any
// device. Asked for once each, in order, so that only one need be in memory.
using WeightSource = std::function<absl::StatusOr<at::Tensor>(const std::string& name)>;

struct ModelWriterOptions {
  // What the weights are stored in, kFloat or kBFloat16; config.json says the same.
  at::ScalarType dtype = at::kFloat;
  // A file of weights grows no larger than this, as transformers' max_shard_size; a single larger
  // tensor stands alone.
  int64_t max_shard_bytes = 5'000'000'000;
};

// The base model's folder and the hashes that its files had when it was loaded; without any, its
// files are taken as they are.
struct BaseFiles {
  std::string dir;
  ModelDigests digests;
};

// Makes `out_dir` with
//   config.json             the base's, with the dtype as stored here
//   generation_config.json  the base's (or a new one), its eos_token_id holding every token that
//                           ends a turn
//   the tokenizer's files   byte for byte
//   model.safetensors       or shards with their index
// FAILED_PRECONDITION with reason MODEL_CHANGED if a file of the base's is no longer what it was.
// `config` is the base's. Reads what it wrote back and compares every byte.
absl::Status WriteModelDirectory(const BaseFiles& base, const ModelConfig& config,
                                 const WeightSource& weights, const ModelWriterOptions& options,
                                 const std::string& out_dir);

}  // namespace anneal::trainer
