#include "worker/trainer/export/exporter.h"

#include <ATen/ops/addmm.h>

#include <cmath>
#include <map>

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

namespace anneal::trainer {
namespace {

// Largest difference of logits, relative to the largest logit. The same values in the same
// arithmetic give the same bits; a merged weight differs in the rounding of every product.
constexpr double kSameTolerance = 0;
constexpr double kMergedTolerance = 1e-3;
// Storing fp32 sums of weights as bfloat16 (8 bits) adds the rounding of every weight.
constexpr double kMergedBf16Tolerance = 5e-2;

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

absl::Status ExportAdapter(const protocol::TrainTask& task, Decoder& decoder,
                           const UnitValues& values, const MicroBatch& probe,
                           const at::Tensor& expected, const std::string& dir) {
  const std::string& base_id = task.model_source_id.empty() ? task.model_dir : task.model_source_id;
  ANNEAL_RETURN_IF_ERROR(WriteAdapter(*task.lora, base_id, decoder, values, dir));
  ANNEAL_ASSIGN_OR_RETURN(const UnitValues stored, ReadAdapterValues(dir, decoder));
  const auto bind = [&decoder](const UnitValues& to) {
    for (size_t u = 0; u < to.size(); ++u) decoder.Bind(static_cast<int>(u), to[u]);
  };
  UnitValues on_device;
  for (size_t u = 0; u < stored.size(); ++u) {
    std::vector<at::Tensor>& unit = on_device.emplace_back();
    for (size_t i = 0; i < stored[u].size(); ++i)
      unit.push_back(stored[u][i].to(values[u][i].device()));
  }
  bind(on_device);
  const at::Tensor actual = decoder.Logits(probe);
  bind(values);
  return CompareLogits(actual, expected, kSameTolerance, dir).status();
}

// Returns the largest difference of logits.
absl::StatusOr<double> ExportModel(const WeightSource& weights, const protocol::TrainTask& task,
                                   const ModelConfig& config, const LoadPlainDecoder& load,
                                   const MicroBatch& probe, const at::Tensor& expected,
                                   double tolerance, const std::string& dir) {
  ModelWriterOptions options;
  options.dtype = task.precision == "BF16" ? at::kBFloat16 : at::kFloat;
  ANNEAL_RETURN_IF_ERROR(WriteModelDirectory(task.model_dir, config, weights, options, dir));
  ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<Decoder> stored, load(dir));
  return CompareLogits(stored->Logits(probe), expected, tolerance, dir);
}

}  // namespace

absl::StatusOr<Exported> ExportTrained(const protocol::TrainTask& task, Decoder& decoder,
                                       const UnitValues& values, const LoadPlainDecoder& load,
                                       const std::string& output_dir) {
  const MicroBatch probe = ProbeBatch(decoder.config());
  decoder.SetDropoutKey(std::nullopt);
  const at::Tensor expected = decoder.Logits(probe);

  if (!task.lora) {
    std::map<std::string, at::Tensor> by_name;
    for (size_t u = 0; u < values.size(); ++u) {
      for (size_t i = 0; i < values[u].size(); ++i)
        by_name[decoder.units()[u].parameters[i].name] = values[u][i];
    }
    const auto weights = [&](const std::string& name) -> absl::StatusOr<at::Tensor> {
      return by_name.at(name);
    };
    ANNEAL_RETURN_IF_ERROR(ExportModel(weights, task, decoder.config(), load, probe, expected,
                                       kSameTolerance, absl::StrCat(output_dir, "/model"))
                               .status());
    return Exported{.primary = "model"};
  }
  ANNEAL_RETURN_IF_ERROR(
      ExportAdapter(task, decoder, values, probe, expected, absl::StrCat(output_dir, "/adapter")));
  Exported exported = {.primary = "adapter"};
  if (task.export_merged) {
    ANNEAL_ASSIGN_OR_RETURN(const std::unique_ptr<ModelWeights> base,
                            ModelWeights::Open(task.model_dir));
    ANNEAL_RETURN_IF_ERROR(base->CheckAgainst(decoder.config()));
    ANNEAL_ASSIGN_OR_RETURN(const MergedWeights merged,
                            MergedWeights::Create(*base, *task.lora, decoder, values));
    ANNEAL_ASSIGN_OR_RETURN(
        exported.merged_logit_difference,
        ExportModel(merged, task, decoder.config(), load, probe, expected,
                    task.precision == "BF16" ? kMergedBf16Tolerance : kMergedTolerance,
                    absl::StrCat(output_dir, "/merged")));
  }
  return exported;
}

}  // namespace anneal::trainer
