#pragma once
// One transformer block: x + attention(norm(x)), then x + feed-forward(norm(x))
// (LlamaDecoderLayer and its kin), with its backward written by hand. Biases, norms of q and k, and
// a window of attention are there where the config says so.
//
// Kept from forward to backward: the inputs of the norms with their inverse rms, q, k, v after the
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
  // Loads the block's weights. Full fine-tuning if `lora` is null.
  static absl::StatusOr<std::unique_ptr<Block>> Load(const Compute& compute,
                                                     const ModelConfig& config, int64_t layer,
                                                     const ModelWeights& weights,
                                                     const LoraPlan* lora);

  const ParameterList& parameters() const { return parameters_; }
  ParameterList& parameters() { return parameters_; }

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
    kQueryInput,  // of the norm of q; with its neighbours below undefined where there is none
    kQueryRms,
    kKeyInput,
    kKeyRms,
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
  // Places of the norms in BlockNorms.
  enum NormIndex { kInputNorm, kMiddleNorm, kQueryNorm, kKeyNorm, kNorms };
  struct Norm {
    at::Tensor weight_D;
    int place = -1;  // -1: frozen
  };

  Block(const Compute& compute, const ModelConfig& config, int64_t layer)
      : compute_(compute),
        config_(config),
        window_(config.attention_windows.at(layer)),
        scale_(1 / std::sqrt(static_cast<double>(config.head_dim))) {}

  RmsNormResult Normalise(NormIndex norm, const at::Tensor& x_TD) const;
  // Writes the gradient of the weight, returns dx.
  at::Tensor NormBackward(NormIndex norm, const at::Tensor& dh_TD, const at::Tensor& x_TD,
                          const at::Tensor& inverse_rms_T, std::span<at::Tensor> gradients) const;
  // q or k as the projection gave it, [T, heads, C], to what attention takes: normalised where the
  // config says so (then `norm_input` and `norm_rms` are kept for backward), and rotated.
  at::Tensor Position(NormIndex norm, at::Tensor projected_THC, const Cell& cell,
                      at::Tensor* norm_input, at::Tensor* norm_rms) const;
  // The gradient of what Position gave, turned into that of what it took.
  at::Tensor PositionBackward(NormIndex norm, at::Tensor d_THC, const Cell& cell,
                              const at::Tensor& norm_input, const at::Tensor& norm_rms,
                              std::span<at::Tensor> gradients) const;
  AttentionGradients AttentionBackward(const at::Tensor& dmiddle_TD, const Cell& cell,
                                       const BlockSaved& saved,
                                       std::span<at::Tensor> gradients) const;
  at::Tensor FeedForwardBackward(const at::Tensor& dy_TD, const Cell& cell, const BlockSaved& saved,
                                 std::span<at::Tensor> gradients) const;

  const Compute& compute_;
  const ModelConfig& config_;
  const int64_t window_;
  const double scale_;
  std::array<Norm, kNorms> norms_;  // the last two stay empty without query_key_norm
  std::array<std::unique_ptr<Linear>, kLinears> linears_;
  ParameterList parameters_;
};

}  // namespace anneal::trainer
