#include "worker/trainer/export/exporter.h"

#include <ATen/ops/addmm.h>

#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/format/model_tensors.h"
#include "common/format/model_weights.h"
#include "worker/trainer/export/model_writer.h"
#include "worker/trainer/kernels/kernels.h"
#include "worker/trainer/model/compute.h"
#include "worker/trainer/model/lora_plan.h"
#include "worker/trainer/model/weight_loader.h"
#include "worker/trainer/shard/forward.h"

namespace anneal::trainer {
namespace {

// Largest difference of logits, relative to the largest logit. The same values in the same
// arithmetic give the same bits; a merged weight differs in the rounding of every product.
constexpr double kSameTolerance = 0;
constexpr double kMergedTolerance = 1e-3;
// Storing fp32 sums of weights as bfloat16 (8 bits) adds the rounding of every weight.
constexpr double kMergedBf16Tolerance = 5e-2;
constexpr int64_t kProofAlignmentBytes = 256;  // what GPUs ask for

// Two rows of arbitrary tokens.
MicroBatch ProbeBatch(const ModelConfig& config) {
  constexpr int kRowTokens = 24;
  MicroBatch batch;
  batch.row_starts = {0};
  for (int row = 0; row < 2; ++row) {
    for (int position = 0; position < kRowTokens; ++position) {
      batch.token_ids.push_back((int64_t{7919} * (position + 1) * (row + 3)) % config.vocab_size);
      batch.positions.push_back(position);
    }
    batch.source_rows.push_back(row);
    batch.row_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
  }
  return batch;
}

// The largest difference; DATA_LOSS if it is over the tolerance.
absl::StatusOr<double> CompareLogits(const at::Tensor& actual, const at::Tensor& expected,
                                     double tolerance, const std::string& what) {
  const at::Tensor wanted = expected.to(at::kCPU, at::kFloat);
  const double difference = actual.to(at::kCPU, at::kFloat).sub(wanted).abs().max().item<double>();
  const double largest = wanted.abs().max().item<double>();
  if (difference <= tolerance * largest) return difference;  // false for NaN
  return absl::DataLossError(absl::StrCat(what,
                                          " gives logits that differ from the trained model's by ",
                                          difference, " where the largest is ", largest));
}

// The base's weights with the adapter's products added, in fp32; those that were trained whole are
// the trained ones.
class MergedWeights {
 public:
  static absl::StatusOr<MergedWeights> Create(const ModelWeights& base,
                                              const protocol::LoraOptions& lora,
                                              const Decoder& decoder, const UnitValues& values) {
    MergedWeights merged(base);
    for (size_t u = 0; u < values.size(); ++u) {
      for (size_t i = 0; i < values[u].size(); ++i)
        merged.trained_[decoder.units()[u].parameters[i].name] = values[u][i];
    }
    ANNEAL_ASSIGN_OR_RETURN(const LoraPlan plan, PlanLora(decoder.config(), lora));
    for (int64_t layer = 0; layer < decoder.config().layers; ++layer) {
      const std::vector<LinearModule> linears = BlockLinears(decoder.config(), layer);
      for (size_t i = 0; i < linears.size(); ++i) {
        if (const std::optional<LoraShape>& shape = plan.linears[layer][i])
          merged.scales_[linears[i].name] = shape->scale;
      }
    }
    return merged;
  }

  absl::StatusOr<at::Tensor> operator()(const std::string& name) const {
    if (const auto it = trained_.find(name); it != trained_.end()) return it->second;
    ANNEAL_ASSIGN_OR_RETURN(const at::Tensor weight, LoadWeight(base_, name, at::kCPU, at::kFloat));
    const std::string module(absl::StripSuffix(name, ".weight"));
    const auto scale = scales_.find(module);
    if (scale == scales_.end()) return weight;
    const at::Tensor a = trained_.at(module + ".lora_A.weight").to(at::kCPU);
    const at::Tensor b = trained_.at(module + ".lora_B.weight").to(at::kCPU);
    return at::addmm(weight, b, a, /*beta=*/1, /*alpha=*/scale->second);
  }

 private:
  explicit MergedWeights(const ModelWeights& base) : base_(base) {}

  const ModelWeights& base_;
  std::map<std::string, at::Tensor> trained_;
  std::map<std::string, double> scales_;  // of the adapted modules
};

// The trained values by name, gathered one unit at a time: names are asked for in the order of
// units, and on all ranks.
class GatheredValues {
 public:
  GatheredValues(const Decoder& decoder, ShardedValues& values) : values_(values) {
    for (size_t unit = 0; unit < decoder.units().size(); ++unit) {
      const std::vector<ParameterSpec>& parameters = decoder.units()[unit].parameters;
      for (size_t i = 0; i < parameters.size(); ++i) {
        places_[parameters[i].name] = {static_cast<int>(unit), i};
      }
    }
  }

  absl::StatusOr<at::Tensor> operator()(const std::string& name) {
    const Place place = places_.at(name);
    if (place.unit != gathered_unit_) {
      gathered_ = {};
      ANNEAL_ASSIGN_OR_RETURN(gathered_, values_.GatherMasters(place.unit));
      gathered_unit_ = place.unit;
    }
    return gathered_.views[place.index];
  }

 private:
  struct Place {
    int unit;
    size_t index;
  };

  ShardedValues& values_;
  std::map<std::string, Place> places_;
  int gathered_unit_ = -1;
  UnitBuffer gathered_;
};

absl::StatusOr<UnitValues> GatherAll(const Decoder& decoder, ShardedValues& values) {
  UnitValues all;
  for (size_t unit = 0; unit < decoder.units().size(); ++unit) {
    ANNEAL_ASSIGN_OR_RETURN(UnitBuffer gathered, values.GatherMasters(static_cast<int>(unit)));
    all.push_back(std::move(gathered.views));
  }
  return all;
}

absl::Status ExportAdapter(const ExportSource& source, const UnitValues& values,
                           const std::string& dir) {
  const protocol::TrainTask& task = source.task;
  const std::string& base_id = task.model_source_id.empty() ? task.model_dir : task.model_source_id;
  ANNEAL_RETURN_IF_ERROR(WriteAdapter(*task.lora, base_id, source.decoder, values, dir));
  ANNEAL_ASSIGN_OR_RETURN(const UnitValues stored, ReadAdapterValues(dir, source.decoder));
  for (size_t u = 0; u < stored.size(); ++u) {
    for (size_t i = 0; i < stored[u].size(); ++i) {
      if (stored[u][i].equal(values[u][i].to(at::kCPU))) continue;
      return absl::DataLossError(absl::StrCat(
          dir, ": ", source.decoder.units()[u].parameters[i].name, " is not what was trained"));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteModel(const ExportSource& source, const WeightSource& weights,
                        const std::string& dir) {
  ModelWriterOptions options;
  options.dtype = source.task.precision == "BF16" ? at::kBFloat16 : at::kFloat;
  return WriteModelDirectory({source.task.model_dir, source.base_digests}, source.decoder.config(),
                             weights, options, dir);
}

// The logits of the model that rank 0 has written, whose weights are spread over the ranks.
absl::StatusOr<at::Tensor> StoredLogits(const ExportSource& source, const std::string& dir,
                                        const MicroBatch& probe) {
  ANNEAL_RETURN_IF_ERROR(source.communicator.Barrier("wait for the exported model"));
  const int ranks = source.communicator.world_size();
  DecoderOptions options = source.arithmetic;
  options.frozen = true;
  options.lent = ranks > 1;
  ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<Decoder> stored, source.load(dir, options));
  const FlatLayout layout(stored->units(), ranks, kProofAlignmentBytes);
  const FlatLayout frozen_layout(stored->frozen_units(), ranks, kProofAlignmentBytes);
  ShardedValues values(
      layout, frozen_layout,
      {.sharding = Sharding::kFull, .compute_type = options.compute_type, .device = options.device},
      *stored, source.communicator);
  ANNEAL_RETURN_IF_ERROR(values.Initialise(/*seed=*/0));
  return ForwardLogits(*stored, values, probe);
}

absl::StatusOr<Exported> ExportFull(const ExportSource& source, const MicroBatch& probe,
                                    const std::string& dir) {
  ANNEAL_ASSIGN_OR_RETURN(const at::Tensor expected,
                          ForwardLogits(source.decoder, source.values, probe));
  {
    GatheredValues values(source.decoder, source.values);
    const auto weights = [&](const std::string& name) { return values(name); };
    if (source.communicator.rank() == 0) {
      ANNEAL_RETURN_IF_ERROR(WriteModel(source, weights, dir));
    } else {
      for (const ExpectedTensor& tensor : AllTensors(source.decoder.config())) {
        ANNEAL_RETURN_IF_ERROR(weights(tensor.name).status());
      }
    }
  }
  ANNEAL_ASSIGN_OR_RETURN(const at::Tensor actual, StoredLogits(source, dir, probe));
  ANNEAL_RETURN_IF_ERROR(CompareLogits(actual, expected, kSameTolerance, dir).status());
  return Exported{.primary = "model"};
}

// Returns the largest difference of logits.
absl::StatusOr<double> ExportMerged(const ExportSource& source, const UnitValues& trained,
                                    const MicroBatch& probe, const std::string& dir) {
  const protocol::TrainTask& task = source.task;
  ANNEAL_ASSIGN_OR_RETURN(const at::Tensor expected,
                          ForwardLogits(source.decoder, source.values, probe));
  if (source.communicator.rank() == 0) {
    ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<ModelWeights> base,
                            ModelWeights::Open(task.model_dir));
    ANNEAL_RETURN_IF_ERROR(base->CheckAgainst(source.decoder.config()));
    ANNEAL_ASSIGN_OR_RETURN(const MergedWeights merged,
                            MergedWeights::Create(*base, *task.lora, source.decoder, trained));
    ANNEAL_RETURN_IF_ERROR(WriteModel(source, merged, dir));
  }
  ANNEAL_ASSIGN_OR_RETURN(const at::Tensor actual, StoredLogits(source, dir, probe));
  return CompareLogits(actual, expected,
                       task.precision == "BF16" ? kMergedBf16Tolerance : kMergedTolerance, dir);
}

}  // namespace

absl::StatusOr<Exported> ExportTrained(const ExportSource& source, const std::string& output_dir) {
  const MicroBatch probe = ProbeBatch(source.decoder.config());
  if (!source.task.lora) return ExportFull(source, probe, absl::StrCat(output_dir, "/model"));

  ANNEAL_ASSIGN_OR_RETURN(const UnitValues trained, GatherAll(source.decoder, source.values));
  if (source.communicator.rank() == 0) {
    ANNEAL_RETURN_IF_ERROR(ExportAdapter(source, trained, absl::StrCat(output_dir, "/adapter")));
  }
  Exported exported = {.primary = "adapter"};
  if (source.task.export_merged) {
    ANNEAL_ASSIGN_OR_RETURN(
        exported.merged_logit_difference,
        ExportMerged(source, trained, probe, absl::StrCat(output_dir, "/merged")));
  }
  return exported;
}

}  // namespace anneal::trainer
