#pragma once
// One transformer block: x + attention(norm(x)), then x + feed-forward(norm(x))
// (LlamaDecoderLayer), with its backward written by hand.
//
// Kept from forward to backward: both inputs of the norms with their inverse rms, q, k, v after the
// rotation, attention's output and statistics, gate and up, and LoRA's low-rank products.
// Recomputed, because cheap: the normalised inputs and silu(gate)*up.

#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/format/model_weights.h"
#include "worker/trainer/model/compute.h"
#include "worker/trainer/model/linear.h"

namespace anneal::trainer {

class Block {
 public:
  // Loads the block's weights. Full fine-tuning if `lora` is null; otherwise `adapted` says which
  // of BlockLinears get an adapter.
  static absl::StatusOr<std::unique_ptr<Block>> Load(const Compute& compute,
                                                     const ModelConfig& config, int64_t layer,
                                                     const ModelWeights& weights,
                                                     const protocol::LoraOptions* lora,
                                                     const std::vector<bool>& adapted);

  const TrainableList& trainable() const { return trainable_; }
  TrainableList& trainable() { return trainable_; }

  at::Tensor Forward(const at::Tensor& x_TD, const Cell& cell, BlockSaved* saved) const;
  at::Tensor Backward(const at::Tensor& dy_TD, const Cell& cell, const BlockSaved& saved,
                      std::span<at::Tensor> gradients, bool need_dx) const;

 private:
  // Places of the linears in BlockLinears.
  enum LinearIndex { kQ, kK, kV, kO, kGate, kUp, kDown, kLinears };
  // Places in BlockSaved::tensors.
  enum SavedIndex {
    kInput,
    kInputRms,
    kQuery,
    kKey,
    kValue,
    kAttention,
    kAttentionStatistics,
    kMiddle,
    kMiddleRms,
    kGateOut,
    kUpOut,
    kFirstLowRank,  // of the linears, in their order
    kSavedCount = kFirstLowRank + static_cast<int>(kLinears)
  };
  static int LowRankPlace(LinearIndex linear) {
    return static_cast<int>(kFirstLowRank) + static_cast<int>(linear);
  }
  struct Norm {
    at::Tensor weight_D;
    int place = -1;  // -1: frozen
  };

  Block(const Compute& compute, const ModelConfig& config)
      : compute_(compute),
        config_(config),
        scale_(1 / std::sqrt(static_cast<double>(config.head_dim))) {}

  RmsNormResult Normalise(const Norm& norm, const at::Tensor& x_TD) const;
  // Writes the gradient of the weight, returns dx.
  at::Tensor NormBackward(const Norm& norm, const at::Tensor& dh_TD, const at::Tensor& x_TD,
                          const at::Tensor& inverse_rms_T, std::span<at::Tensor> gradients) const;
  at::Tensor FeedForwardBackward(const at::Tensor& dy_TD, const Cell& cell, const BlockSaved& saved,
                                 std::span<at::Tensor> gradients) const;

  const Compute& compute_;
  const ModelConfig& config_;
  const double scale_;
  Norm input_norm_, middle_norm_;
  std::array<std::unique_ptr<Linear>, kLinears> linears_;
  TrainableList trainable_;
};

}  // namespace anneal::trainer
