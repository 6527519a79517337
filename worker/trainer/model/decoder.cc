#include "worker/trainer/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/tensor.h>

#include "common/base/status.h"
#include "common/format/model_tensors.h"
#include "common/format/model_weights.h"
#include "worker/trainer/model/block.h"
#include "worker/trainer/model/compute.h"
#include "worker/trainer/model/head.h"
#include "worker/trainer/model/lora_plan.h"
#include "worker/trainer/model/rotary.h"
#include "worker/trainer/model/weight_loader.h"

namespace anneal::trainer {
namespace {

class BlockDecoder : public Decoder {
 public:
  BlockDecoder(ModelConfig config, const DecoderOptions& options, Kernels& kernels)
      : config_(std::move(config)),
        lora_(options.lora),
        frozen_(options.frozen),
        compute_{kernels,
                 options.device,
                 options.compute_type,
                 options.lent,
                 options.lora ? options.lora->dropout : 0,
                 std::nullopt},
        rotary_frequencies_(RotaryFrequencies(config_)) {}

  absl::Status LoadWeights(std::unique_ptr<ModelWeights> weights);

  const ModelConfig& config() const override { return config_; }
  const std::vector<ParameterUnit>& units() const override { return units_; }
  const std::vector<ParameterUnit>& frozen_units() const override { return frozen_units_; }
  int lowest_trainable_unit() const override;

  absl::Status InitialValues(int unit, uint64_t seed, std::span<at::Tensor> values) override;
  void Bind(int unit, std::span<const at::Tensor> values) override {
    ParametersOf(unit).Bind(values);
  }
  absl::Status FrozenValues(int unit, std::span<at::Tensor> values) override {
    if (values.empty()) return absl::OkStatus();
    return ParametersOf(unit).FillFrozen(*weights_, values);
  }
  void BindFrozen(int unit, std::span<const at::Tensor> values) override {
    ParametersOf(unit).BindFrozen(values);
  }

  Cell MakeCell(const MicroBatch& batch) const override;
  void SetDropoutKey(std::optional<std::pair<uint64_t, int64_t>> seed_and_step) override {
    compute_.dropout_key = seed_and_step;
  }

  at::Tensor EmbedForward(const Cell& cell) override;
  at::Tensor BlockForward(int layer, const at::Tensor& x_TD, const Cell& cell,
                          BlockSaved* saved) override {
    return blocks_.at(layer)->Forward(x_TD, cell, saved);
  }
  HeadResult Head(const at::Tensor& x_TD, const Cell& cell, std::optional<double> loss_scale,
                  std::span<at::Tensor> gradients, std::span<at::Tensor> tied_gradients,
                  std::span<const int64_t> choices) override {
    return head_->Run(x_TD, cell, loss_scale, gradients, tied_gradients, choices);
  }
  at::Tensor BlockBackward(int layer, const at::Tensor& dy_TD, const Cell& cell,
                           const BlockSaved& saved, std::span<at::Tensor> gradients,
                           bool need_dx) override {
    return blocks_.at(layer)->Backward(dy_TD, cell, saved, gradients, need_dx);
  }
  void EmbedBackward(const at::Tensor& dx_TD, const Cell& cell,
                     std::span<at::Tensor> gradients) override;

  at::Tensor HeadLogits(const at::Tensor& x_TD) override { return head_->Logits(x_TD); }

 private:
  ParameterList& ParametersOf(int unit);
  void AddUnit(const std::string& name, const ParameterList& parameters) {
    units_.push_back({name, parameters.specs()});
    frozen_units_.push_back({name, parameters.frozen_specs()});
  }

  const ModelConfig config_;
  const std::optional<protocol::LoraOptions> lora_;
  const bool frozen_;
  Compute compute_;
  const at::Tensor rotary_frequencies_;  // fp32 [C / 2]
  at::Tensor embedding_VD_;
  ParameterList embedding_parameters_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<OutputHead> head_;
  std::vector<ParameterUnit> units_, frozen_units_;
  std::unique_ptr<ModelWeights> weights_;  // only where values are lent
};

absl::Status BlockDecoder::LoadWeights(std::unique_ptr<ModelWeights> opened) {
  const ModelWeights& weights = *opened;
  std::optional<LoraPlan> plan;
  if (lora_) {
    ANNEAL_ASSIGN_OR_RETURN(plan, PlanLora(config_, *lora_));
  } else if (frozen_) {
    plan = NoLora(config_);
  }
  const LoraPlan* const lora = plan ? &*plan : nullptr;
  const ExpectedTensor embedding = EmbeddingTensors(config_)[0];
  ANNEAL_RETURN_IF_ERROR(LoadParameter(compute_, weights, {embedding.name, embedding.shape},
                                       /*trainable=*/lora == nullptr || lora->embedding,
                                       embedding_parameters_, &embedding_VD_)
                             .status());
  AddUnit("embed", embedding_parameters_);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<Block> block,
                            Block::Load(compute_, config_, layer, weights, lora));
    AddUnit("layers." + std::to_string(layer), block->parameters());
    blocks_.push_back(std::move(block));
  }
  ANNEAL_ASSIGN_OR_RETURN(head_,
                          OutputHead::Load(compute_, config_, weights, lora,
                                           config_.tie_word_embeddings ? &embedding_VD_ : nullptr));
  AddUnit("head", head_->parameters());
  if (compute_.lent) weights_ = std::move(opened);
  return absl::OkStatus();
}

int BlockDecoder::lowest_trainable_unit() const {
  int unit = 0;
  while (unit < static_cast<int>(units_.size()) && units_[unit].parameters.empty()) ++unit;
  return unit;
}

ParameterList& BlockDecoder::ParametersOf(int unit) {
  if (unit == 0) return embedding_parameters_;
  if (unit == static_cast<int>(blocks_.size()) + 1) return head_->parameters();
  return blocks_.at(unit - 1)->parameters();
}

absl::Status BlockDecoder::InitialValues(int unit, uint64_t seed, std::span<at::Tensor> values) {
  return ParametersOf(unit).FillInitial(seed, weights_.get(), values);
}

Cell BlockDecoder::MakeCell(const MicroBatch& batch) const {
  const auto to_device = [&](const auto& values) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    return at::tensor(at::ArrayRef<T>(values), c10::CppTypeToScalarType<T>::value)
        .to(compute_.device);
  };
  Cell cell;
  cell.rows.starts = batch.row_starts;
  cell.rows.starts_device = to_device(batch.row_starts);
  std::vector<int64_t> source_rows(batch.token_ids.size());
  for (size_t row = 0; row + 1 < batch.row_starts.size(); ++row) {
    const int32_t begin = batch.row_starts[row], end = batch.row_starts[row + 1];
    cell.rows.longest = std::max(cell.rows.longest, end - begin);
    std::fill(source_rows.begin() + begin, source_rows.begin() + end, batch.source_rows[row]);
  }
  cell.token_ids_T = to_device(batch.token_ids);
  cell.supervised_S = to_device(batch.supervised_positions);
  cell.targets_S = to_device(batch.targets);
  cell.places = {to_device(source_rows), to_device(batch.positions)};

  const RotaryTables rotary = MakeRotaryTables(rotary_frequencies_, batch.positions);
  cell.cos_TC = rotary.cos_TC.to(compute_.device);
  cell.sin_TC = rotary.sin_TC.to(compute_.device);
  return cell;
}

at::Tensor BlockDecoder::EmbedForward(const Cell& cell) {
  return compute_.Cast(at::embedding(embedding_VD_, cell.token_ids_T));
}

void BlockDecoder::EmbedBackward(const at::Tensor& dx_TD, const Cell& cell,
                                 std::span<at::Tensor> gradients) {
  if (gradients.empty()) return;
  if (!config_.tie_word_embeddings) gradients[0].zero_();
  at::Tensor dx_of_rows_TD = dx_TD.to(gradients[0].scalar_type());
  if (config_.padding_token_id) {
    dx_of_rows_TD =
        dx_of_rows_TD.masked_fill((cell.token_ids_T == *config_.padding_token_id).unsqueeze(1), 0);
  }
  gradients[0].index_add_(0, cell.token_ids_T, dx_of_rows_TD);
}

}  // namespace

at::Tensor Decoder::Logits(const MicroBatch& batch) {
  SetDropoutKey(std::nullopt);
  const Cell cell = MakeCell(batch);
  at::Tensor x_TD = EmbedForward(cell);
  for (int64_t layer = 0; layer < config().layers; ++layer) {
    x_TD = BlockForward(static_cast<int>(layer), x_TD, cell, /*saved=*/nullptr);
  }
  return HeadLogits(x_TD);
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(const std::string& model_dir,
                                                       const DecoderOptions& options,
                                                       Kernels& kernels) {
  ANNEAL_ASSIGN_OR_RETURN(ModelConfig config, ReadModelConfig(model_dir));
  ANNEAL_ASSIGN_OR_RETURN(std::unique_ptr<ModelWeights> weights, ModelWeights::Open(model_dir));
  ANNEAL_RETURN_IF_ERROR(weights->CheckAgainst(config));
  auto decoder = std::make_unique<BlockDecoder>(std::move(config), options, kernels);
  ANNEAL_RETURN_IF_ERROR(decoder->LoadWeights(std::move(weights)));
  return decoder;
}

}  // namespace anneal::trainer
