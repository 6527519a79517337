#pragma once
// The trained values in Hugging Face form, proven before the job may succeed: adapter/ or model/,
// and merged/ where asked for.
//
// Weights are stored in fp32 unless the job's precision is BF16: the master values are fp32, and a
// file in the base's bfloat16 would answer otherwise than what was trained and evaluated.
// config.json says so.

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/format/model_directory.h"
#include "common/protocol/messages.h"
#include "worker/trainer/collective/communicator.h"
#include "worker/trainer/export/adapter.h"
#include "worker/trainer/model/decoder.h"
#include "worker/trainer/shard/sharded_values.h"

namespace anneal::trainer {

// Loads a model directory, as Decoder::Load.
using LoadModelDirectory = std::function<absl::StatusOr<std::unique_ptr<Decoder>>(
    const std::string& model_dir, const DecoderOptions& options)>;

// What was trained, and how to compute. All references must outlive the call.
struct ExportSource {
  const protocol::TrainTask& task;
  Decoder& decoder;
  ShardedValues& values;  // the decoder's
  Communicator& communicator;
  DecoderOptions arithmetic;  // device and compute type, as trained with
  LoadModelDirectory load;
  // Of the files of the base as it was loaded; empty if the task does not say which it must be.
  ModelDigests base_digests;
};

struct Exported {
  std::string primary;  // "adapter" or "model": the folder to use
  // Between the merged model and base and adapter, over the probe batch; absent without merged/.
  std::optional<double> merged_logit_difference;
};

// All ranks call it together. Rank 0 writes below `output_dir`, which exists, which all ranks see
// and which the caller publishes. Everything is read back and compared byte for byte; then a model
// that was written is loaded and its logits on a probe batch compared with the trained one's.
// DATA_LOSS if a check fails.
//
// No rank holds more of the model than one unit besides what it holds of the values and, while a
// written model is compared, an equal part of that: so what could be trained can be exported.
absl::StatusOr<Exported> ExportTrained(const ExportSource& source, const std::string& output_dir);

}  // namespace anneal::trainer
