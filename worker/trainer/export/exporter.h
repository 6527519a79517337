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
#include "common/protocol/messages.h"
#include "worker/trainer/export/adapter.h"
#include "worker/trainer/model/decoder.h"

namespace anneal::trainer {

// Loads a model directory without adapter, to compute as the training decoder does.
using LoadPlainDecoder =
    std::function<absl::StatusOr<std::unique_ptr<Decoder>>(const std::string& model_dir)>;

struct Exported {
  std::string primary;  // "adapter" or "model": the folder to use
  // Between the merged model and base and adapter, over the probe batch; absent without merged/.
  std::optional<double> merged_logit_difference;
};

// Rank 0 only. `values` are what `decoder` is bound to. Writes below `output_dir`, which exists and
// is published by the caller. Everything is read back and compared byte for byte; then the exported
// files are loaded and their logits on a probe batch compared with the training decoder's.
// DATA_LOSS if a check fails.
absl::StatusOr<Exported> ExportTrained(const protocol::TrainTask& task, Decoder& decoder,
                                       const UnitValues& values, const LoadPlainDecoder& load,
                                       const std::string& output_dir);

}  // namespace anneal::trainer
