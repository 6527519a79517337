#pragma once
// A decoder-only transformer as a list of units with explicit forward and backward: no autograd
// graph anywhere.
//
// Units in canonical order: 0 "embed" (embed_tokens), 1..L "layers.0".."layers.{L-1}", L+1 "head"
// (final norm, and lm_head unless it is tied to the embedding). The engine's schedule decides what
// runs when, what is kept and when a unit's gradients are reduced; the decoder only computes. One
// cell (micro-batch) per call: no matrix multiply, norm gradient or loss sum spans two cells.
//
// Trainable values live in flat buffers that the engine owns; Bind hands the decoder views of them.
// Frozen values live here, unless they are lent. Owner: Trainer. Guarded by its caller, who holds
// c10::InferenceMode to spare autograd's bookkeeping. All errors of torch are caught by the
// engine's one wrapper.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/format/model_config.h"
#include "common/protocol/messages.h"
#include "worker/trainer/data/micro_batch.h"
#include "worker/trainer/kernels/kernels.h"

namespace anneal::trainer {

// One trainable tensor. Always fp32.
struct ParameterSpec {
  std::string name;  // as exported: "model.layers.0.self_attn.q_proj.weight", or for LoRA
                     // "model.layers.0.self_attn.q_proj.lora_A.weight"
  std::vector<int64_t> shape;
  bool weight_decay = true;  // false for biases and norms
};
struct ParameterUnit {
  std::string name;
  std::vector<ParameterSpec> parameters;  // trainable ones only; may be empty
};

// A micro-batch on the compute device.
struct Cell {
  PackedRows rows;
  at::Tensor token_ids_T, supervised_S, targets_S;  // int64
  at::Tensor cos_TC, sin_TC;                        // fp32 [T, C/2] at each token's position
  TokenPlaces places;
};

// What a block keeps from forward to backward; the block alone knows the meaning.
struct BlockSaved {
  std::vector<at::Tensor> tensors;
};

struct HeadResult {
  at::Tensor losses_S;          // per supervised token, nats, fp32 (fp64 for double compute)
  at::Tensor correct_S;         // bool: argmax = target
  at::Tensor dx_TD;             // gradient into the last block's output; undefined in evaluation
  at::Tensor choice_logits_SN;  // logits of the asked-for token ids; undefined unless asked for
};

struct DecoderOptions {
  at::Device device = at::kCPU;
  at::ScalarType compute_type = at::kFloat;   // kDouble in tests
  std::optional<protocol::LoraOptions> lora;  // absent = full fine-tuning
  bool frozen = false;                        // only to read answers from: no unit has parameters
  bool lent = false;  // all values, frozen ones too, are the caller's, who binds each unit for as
                      // long as it is used
};

class Decoder {
 public:
  virtual ~Decoder() = default;

  // Reads config.json and the weights (one file or sharded with index) of a Hugging Face directory.
  // Errors name the file, the tensor and both shapes. `kernels` must outlive the decoder.
  static absl::StatusOr<std::unique_ptr<Decoder>> Load(const std::string& model_dir,
                                                       const DecoderOptions& options,
                                                       Kernels& kernels);

  virtual const ModelConfig& config() const = 0;
  virtual const std::vector<ParameterUnit>& units() const = 0;
  // The lowest unit with anything trainable: no backward is needed below it.
  virtual int lowest_trainable_unit() const = 0;

  // Fills `values` (fp32, shaped as specified) with a unit's initial values: the loaded weights, or
  // for LoRA PEFT's distribution (A Kaiming-uniform with a = sqrt(5), B zero) by Philox keyed by
  // (seed, tensor name).
  virtual absl::Status InitialValues(int unit, uint64_t seed, std::span<at::Tensor> values) = 0;
  // From now on the unit computes with these; they must stay alive and may change between calls.
  // Full fine-tuning: releases the loaded copy.
  virtual void Bind(int unit, std::span<const at::Tensor> values) = 0;

  // Where values are lent, the frozen ones of each unit: in compute type, read from the files, and
  // bound like the others. Otherwise no unit has any. Binding undefined tensors takes the values
  // away.
  virtual const std::vector<ParameterUnit>& frozen_units() const = 0;
  virtual absl::Status FrozenValues(int unit, std::span<at::Tensor> values) = 0;
  virtual void BindFrozen(int unit, std::span<const at::Tensor> values) = 0;

  virtual Cell MakeCell(const MicroBatch& batch) const = 0;
  // Key of the dropout masks of the calls that follow, forward and backward: (seed, step). Absent,
  // as in evaluation: no dropout.
  virtual void SetDropoutKey(std::optional<std::pair<uint64_t, int64_t>> seed_and_step) = 0;

  virtual at::Tensor EmbedForward(const Cell& cell) = 0;  // [T, D]
  // `saved` null: evaluation, nothing is kept.
  virtual at::Tensor BlockForward(int layer, const at::Tensor& x_TD, const Cell& cell,
                                  BlockSaved* saved) = 0;
  // Final norm, logits at supervised positions only (in chunks), losses; with `loss_scale` also the
  // backward of loss_scale * sum(losses), writing the head's gradients into `gradients` and, where
  // the embedding is tied and trainable, the embedding's part into `tied_gradients`. Without:
  // evaluation. `choices`: token ids whose logits are wanted.
  virtual HeadResult Head(const at::Tensor& x_TD, const Cell& cell,
                          std::optional<double> loss_scale, std::span<at::Tensor> gradients,
                          std::span<at::Tensor> tied_gradients,
                          std::span<const int64_t> choices) = 0;
  // Writes (not adds) the unit's gradients, fp32, as shaped in units(); returns dx, undefined if
  // `need_dx` is false.
  virtual at::Tensor BlockBackward(int layer, const at::Tensor& dy_TD, const Cell& cell,
                                   const BlockSaved& saved, std::span<at::Tensor> gradients,
                                   bool need_dx) = 0;
  // Writes the embedding's gradient, or adds to it where the tied head has written its part first.
  virtual void EmbedBackward(const at::Tensor& dx_TD, const Cell& cell,
                             std::span<at::Tensor> gradients) = 0;

  // Final norm and logits at every position, [T, V].
  virtual at::Tensor HeadLogits(const at::Tensor& x_TD) = 0;

  // Logits at every position, [T, V], without dropout, of a decoder whose units all have their
  // values: for generation.
  at::Tensor Logits(const MicroBatch& batch);
};

}  // namespace anneal::trainer
