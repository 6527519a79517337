#include "worker/trainer/model/testing/reference_llama.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <limits>

namespace anneal::trainer::testing {
namespace {

at::Tensor Norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  return x * at::rsqrt(x.pow(2).mean(-1, true) + epsilon) * weight;
}

// x [H, n, C] at positions 0..n-1.
at::Tensor Rotate(const at::Tensor& x, double theta) {
  const int64_t n = x.size(1), half = x.size(2) / 2;
  const at::Tensor frequencies =
      1 / at::pow(theta, at::arange(0, 2 * half, 2, at::kLong).to(at::kFloat) / (2 * half));
  const at::Tensor angles = at::outer(at::arange(n, at::kFloat), frequencies);
  const at::Tensor both = at::cat({angles, angles}, 1).to(at::kDouble);
  const at::Tensor turned = at::cat({-x.narrow(2, half, half), x.narrow(2, 0, half)}, 2);
  return x * both.cos().to(at::kFloat) + turned * both.sin().to(at::kFloat);
}

}  // namespace

at::Tensor ReferenceLogits(const ModelConfig& config,
                           const std::map<std::string, at::Tensor>& weights,
                           const ReferenceLora& lora, const MicroBatch& batch) {
  const auto linear = [&](const at::Tensor& x, const std::string& module) {
    at::Tensor y = at::matmul(x, weights.at(module + ".weight").t());
    if (const auto a = lora.weights.find(module + ".lora_A.weight"); a != lora.weights.end()) {
      const at::Tensor& b = lora.weights.at(module + ".lora_B.weight");
      y = y + lora.scale * at::matmul(at::matmul(x, a->second.t()), b.t());
    }
    return y;
  };
  std::vector<at::Tensor> logits;
  for (size_t r = 0; r + 1 < batch.row_starts.size(); ++r) {
    const int64_t begin = batch.row_starts[r], n = batch.row_starts[r + 1] - begin;
    const at::Tensor ids =
        at::tensor(at::ArrayRef<int64_t>(batch.token_ids.data() + begin, n), at::kLong);
    const at::Tensor& embedding = weights.at("model.embed_tokens.weight");
    at::Tensor x = at::embedding(embedding, ids);
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      const at::Tensor h =
          Norm(x, weights.at(prefix + "input_layernorm.weight"), config.rms_norm_epsilon);
      const auto heads = [&](const char* name, int64_t count) {
        return linear(h, prefix + "self_attn." + name)
            .view({n, count, config.head_dim})
            .transpose(0, 1);
      };
      const int64_t group = config.heads / config.kv_heads;
      const at::Tensor q = Rotate(heads("q_proj", config.heads), config.rope_theta);
      const at::Tensor k =
          Rotate(heads("k_proj", config.kv_heads), config.rope_theta).repeat_interleave(group, 0);
      const at::Tensor v = heads("v_proj", config.kv_heads).repeat_interleave(group, 0);
      const at::Tensor scores =
          at::matmul(q, k.transpose(1, 2)) / std::sqrt(static_cast<double>(config.head_dim));
      const at::Tensor masked = scores.masked_fill(at::ones({n, n}, at::kBool).triu(1),
                                                   -std::numeric_limits<double>::infinity());
      const at::Tensor attended =
          at::matmul(at::softmax(masked, -1), v).transpose(0, 1).reshape({n, -1});
      x = x + linear(attended, prefix + "self_attn.o_proj");
      const at::Tensor m =
          Norm(x, weights.at(prefix + "post_attention_layernorm.weight"), config.rms_norm_epsilon);
      x = x +
          linear(at::silu(linear(m, prefix + "mlp.gate_proj")) * linear(m, prefix + "mlp.up_proj"),
                 prefix + "mlp.down_proj");
    }
    const at::Tensor h = Norm(x, weights.at("model.norm.weight"), config.rms_norm_epsilon);
    logits.push_back(
        at::matmul(h, (config.tie_word_embeddings ? embedding : weights.at("lm_head.weight")).t()));
  }
  return at::cat(logits, 0);
}

}  // namespace anneal::trainer::testing
