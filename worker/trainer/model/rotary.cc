#include "worker/trainer/model/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/where.h>

#include <cmath>

namespace anneal::trainer {
namespace {

// Long wavelengths are stretched by the factor, short ones kept, those between interpolated.
at::Tensor Stretch(const at::Tensor& frequencies, const Llama3Rope& rope) {
  const auto original = static_cast<double>(rope.original_max_positions);
  const double longest_kept = original / rope.high_frequency_factor;
  const double shortest_stretched = original / rope.low_frequency_factor;
  const at::Tensor wavelengths = 2 * M_PI / frequencies;
  const at::Tensor stretched =
      at::where(wavelengths > shortest_stretched, frequencies / rope.factor, frequencies);
  const at::Tensor smooth = (original / wavelengths - rope.low_frequency_factor) /
                            (rope.high_frequency_factor - rope.low_frequency_factor);
  const at::Tensor between = (1 - smooth) * stretched / rope.factor + smooth * stretched;
  const at::Tensor is_between =
      (wavelengths < longest_kept).logical_or(wavelengths > shortest_stretched).logical_not();
  return at::where(is_between, between, stretched);
}

}  // namespace

at::Tensor RotaryFrequencies(const ModelConfig& config) {
  const at::Tensor exponents =
      at::arange(0, config.head_dim, 2, at::kLong).to(at::kFloat).div_(config.head_dim);
  const at::Tensor frequencies = at::reciprocal(at::pow(config.rope_theta, exponents));
  return config.llama3_rope ? Stretch(frequencies, *config.llama3_rope) : frequencies;
}

RotaryTables MakeRotaryTables(const at::Tensor& frequencies,
                              const std::vector<int64_t>& positions) {
  const int64_t tokens = static_cast<int64_t>(positions.size()), half = frequencies.numel();
  RotaryTables tables = {at::empty({tokens, half}, at::kFloat),
                         at::empty({tokens, half}, at::kFloat)};
  const float* frequency = frequencies.const_data_ptr<float>();
  float* cos = tables.cos_TC.mutable_data_ptr<float>();
  float* sin = tables.sin_TC.mutable_data_ptr<float>();
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      // The angle is rounded to float as in transformers; its cosine and sine are exact to float.
      const double angle = static_cast<float>(positions[t]) * frequency[i];
      cos[t * half + i] = static_cast<float>(std::cos(angle));
      sin[t * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  return tables;
}

}  // namespace anneal::trainer
