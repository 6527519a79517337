#include "common/spec/memory.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/format/model_tensors.h"
#include "common/plan/flat_placement.h"
#include "common/spec/lora_rules.h"

namespace anneal::spec {
namespace {

// Of a trainer's process besides tensors: libraries, stacks, buffers of the transport.
constexpr int64_t kProcessBytes = int64_t{512} << 20;
constexpr double kUsablePart = 0.95;

int64_t ElementsOf(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t extent : shape) elements *= extent;
  return elements;
}

int64_t RankOf(const v1::LoraMethod& lora, const std::string& module) {
  // The first that means it, in the order of names, as the trainer takes them.
  for (const auto& [name, rank] :
       std::map<std::string, int32_t>(lora.rank_pattern().begin(), lora.rank_pattern().end())) {
    if (NamesModule(module, name)) return rank;
  }
  return lora.rank();
}

bool Names(const google::protobuf::RepeatedPtrField<std::string>& names, const char* module) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return NamesModule(module, name); });
}

// Sizes of a unit's tensors, sorted into those that are trained and the rest.
class UnitSizes {
 public:
  UnitSizes(const v1::JobSpec& spec, const ModelConfig& config) : spec_(spec), config_(config) {}

  std::vector<UnitSize> All() {
    const bool saves_embedding =
        is_full() || Names(lora().modules_to_save(), kEmbeddingModule) ||
        (config_.tie_word_embeddings && Names(lora().modules_to_save(), kHeadModule));
    std::vector<UnitSize> units;
    units.push_back(Sorted(EmbeddingTensors(config_),
                           [&](const ExpectedTensor&) { return saves_embedding; }, {}));
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      units.push_back(Sorted(
          BlockTensors(config_, layer), [&](const ExpectedTensor&) { return is_full(); },
          Adapters(layer)));
    }
    const bool saves_head = Names(lora().modules_to_save(), kHeadModule);
    units.push_back(Sorted(HeadTensors(config_),
                           [&](const ExpectedTensor& tensor) {
                             return is_full() || (saves_head && tensor.shape.size() == 2);
                           },
                           {}));
    return units;
  }

  // The ranks of a block's adapters, added up.
  int64_t LowRank(int64_t layer) const {
    int64_t sum = 0;
    if (is_full()) return sum;
    for (const LinearModule& linear : BlockLinears(config_, layer)) {
      if (IsLoraTarget(lora(), linear.name)) sum += RankOf(lora(), linear.name);
    }
    return sum;
  }

 private:
  bool is_full() const { return spec_.method().has_full(); }
  const v1::LoraMethod& lora() const { return spec_.method().lora(); }

  std::vector<int64_t> Adapters(int64_t layer) const {
    std::vector<int64_t> sizes;
    if (is_full()) return sizes;
    for (const LinearModule& linear : BlockLinears(config_, layer)) {
      if (!IsLoraTarget(lora(), linear.name)) continue;
      const int64_t rank = RankOf(lora(), linear.name);
      sizes.push_back(rank * linear.in_features);
      sizes.push_back(rank * linear.out_features);
    }
    return sizes;
  }

  template <typename IsTrained>
  UnitSize Sorted(const std::vector<ExpectedTensor>& tensors, const IsTrained& is_trained,
                  std::vector<int64_t> trained) const {
    UnitSize size;
    for (const ExpectedTensor& tensor : tensors) {
      if (is_trained(tensor)) {
        trained.push_back(ElementsOf(tensor.shape));
      } else {
        size.frozen += ElementsOf(tensor.shape);
      }
    }
    const bool gpu = spec_.resources().accelerator() == v1::ResourceSpec::ACCELERATOR_GPU;
    size.trainable = PlaceFlat(trained, spec_.training().logical_shards(),
                               gpu ? kCudaAlignmentBytes : kCpuAlignmentBytes)
                         .elements;
    return size;
  }

  const v1::JobSpec& spec_;
  const ModelConfig& config_;
};

// How a step is cut up if every row is as long as may be.
void AddPasses(const v1::JobSpec& spec, MemoryQuestion& question, int64_t& longest_cell) {
  const v1::TrainingSpec& training = spec.training();
  const int64_t length = spec.data().max_length();
  const int64_t micro = training.microbatch_tokens();
  const auto rows_of = [&](int64_t parts) { return (training.batch_size() + parts - 1) / parts; };
  const int64_t shard_rows = rows_of(training.logical_shards());
  const int64_t rank_rows = rows_of(question.world_size);
  const int64_t rows_together = std::max<int64_t>(1, micro / length);  // as many as pass at once
  longest_cell = std::min(shard_rows, rows_together) * length;
  question.tokens_together = std::min(rank_rows, rows_together) * length;
  question.all_together = rank_rows <= rows_together;
  question.shards_have_cells = shard_rows > rows_together;
  question.cells_together =
      std::max<int64_t>(1, std::min(rank_rows, rows_together) * length / longest_cell);
}

}  // namespace

MemoryQuestion MemoryQuestionOf(const v1::JobSpec& spec, const ModelConfig& config) {
  const v1::TrainingSpec& training = spec.training();
  UnitSizes sizes(spec, config);
  MemoryQuestion question;
  question.units = sizes.All();
  question.tied_embedding = config.tie_word_embeddings;
  question.compute_bytes = training.precision() == v1::TrainingSpec::PRECISION_BF16 ? 2 : 4;
  question.logical_shards = training.logical_shards();
  question.world_size = spec.resources().min_slots();
  question.device_is_host = spec.resources().accelerator() != v1::ResourceSpec::ACCELERATOR_GPU;
  int64_t longest_cell = 0;
  AddPasses(spec, question, longest_cell);

  const bool trains_embedding = question.units.front().trainable > 0;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    // Nothing is kept below the lowest unit that is trained.
    const bool trains_below =
        trains_embedding ||
        std::any_of(question.units.begin() + 1, question.units.begin() + layer + 2,
                    [](const UnitSize& unit) { return unit.trainable > 0; });
    if (!trains_below) continue;
    question.saved_bytes_per_token +=
        SavedBytesPerToken(config, sizes.LowRank(layer), question.compute_bytes);
  }
  question.saved_bytes_per_token += CellBytesPerToken(config, question.compute_bytes);
  const bool casts_weights = question.compute_bytes == 2 && spec.method().has_full();
  question.working_bytes =
      WorkingBytes(config, longest_cell, question.compute_bytes, casts_weights);
  return question;
}

int64_t BytesForTensors(int64_t slot_bytes) {
  return std::max<int64_t>(
      0, static_cast<int64_t>(static_cast<double>(slot_bytes) * kUsablePart) - kProcessBytes);
}

Sharding ShardingOf(v1::TrainingSpec::Sharding sharding) {
  switch (sharding) {
    case v1::TrainingSpec::SHARDING_OPTIMIZER:
      return Sharding::kOptimizer;
    case v1::TrainingSpec::SHARDING_GRADIENTS:
      return Sharding::kGradients;
    case v1::TrainingSpec::SHARDING_FULL:
      return Sharding::kFull;
    default:
      return Sharding::kNone;
  }
}

v1::TrainingSpec::Sharding ToProto(Sharding sharding) {
  switch (sharding) {
    case Sharding::kNone:
      return v1::TrainingSpec::SHARDING_NONE;
    case Sharding::kOptimizer:
      return v1::TrainingSpec::SHARDING_OPTIMIZER;
    case Sharding::kGradients:
      return v1::TrainingSpec::SHARDING_GRADIENTS;
    case Sharding::kFull:
      return v1::TrainingSpec::SHARDING_FULL;
  }
  ANNEAL_CHECK(false);
  return v1::TrainingSpec::SHARDING_NONE;
}

v1::MemoryPlan ToProto(const MemoryPlan& plan) {
  v1::MemoryPlan out;
  out.set_total_bytes(plan.total());
  out.set_weights_bytes(plan.weights);
  out.set_gathered_bytes(plan.gathered);
  out.set_moments_bytes(plan.moments);
  out.set_gradients_bytes(plan.gradients);
  out.set_exchange_bytes(plan.exchange);
  out.set_snapshot_bytes(plan.snapshot);
  out.set_activations_bytes(plan.activations);
  out.set_working_bytes(plan.working);
  return out;
}

std::string FormatMemoryPlan(const v1::MemoryPlan& plan) {
  const auto gibibytes = [](int64_t bytes) {
    // A tiny model is not nothing.
    const int digits = bytes < (int64_t{1} << 30) / 10 ? 4 : 2;
    return absl::StrFormat("%.*f", digits, static_cast<double>(bytes) / (int64_t{1} << 30));
  };
  std::string items;
  for (const auto& [name, bytes] :
       {std::pair("weights", plan.weights_bytes()), std::pair("gathered", plan.gathered_bytes()),
        std::pair("moments", plan.moments_bytes()), std::pair("gradients", plan.gradients_bytes()),
        std::pair("exchange", plan.exchange_bytes()), std::pair("snapshot", plan.snapshot_bytes()),
        std::pair("activations", plan.activations_bytes()),
        std::pair("working", plan.working_bytes())}) {
    if (bytes == 0) continue;
    absl::StrAppend(&items, items.empty() ? "" : ", ", name, " ", gibibytes(bytes));
  }
  return absl::StrCat(gibibytes(plan.total_bytes()), " GiB of ", gibibytes(plan.available_bytes()),
                      " GiB a slot, on ", plan.slots(),
                      plan.slots() == 1 ? " slot: " : " slots: ", items, "  (", plan.reason(), ")");
}

}  // namespace anneal::spec
