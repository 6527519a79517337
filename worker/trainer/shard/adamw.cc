#include "worker/trainer/shard/adamw.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>

#include <vector>

namespace anneal::trainer {

AdamW::AdamW(const FlatLayout& layout, const AdamWOptions& options, at::Device device)
    : options_(options),
      decayed_(Select(layout, true)),
      not_decayed_(Select(layout, false)),
      first_moment_(layout, device),
      second_moment_(layout, device) {}

std::vector<AdamW::TensorIndex> AdamW::Select(const FlatLayout& layout, bool weight_decay) {
  std::vector<TensorIndex> selected;
  for (int unit = 0; unit < static_cast<int>(layout.units().size()); ++unit) {
    const std::vector<FlatTensor>& tensors = layout.units()[unit].tensors;
    for (int i = 0; i < static_cast<int>(tensors.size()); ++i) {
      if (tensors[i].weight_decay == weight_decay) selected.push_back({unit, i});
    }
  }
  return selected;
}

void AdamW::Step(int64_t step, double learning_rate, FlatBuffers& values, const FlatBuffers& gradient) {
  StepSome(decayed_, options_.weight_decay, step, learning_rate, values, gradient);
  StepSome(not_decayed_, 0, step, learning_rate, values, gradient);
}

void AdamW::StepSome(const std::vector<TensorIndex>& tensors, double weight_decay, int64_t step,
                     double learning_rate, FlatBuffers& values, const FlatBuffers& gradient) {
  if (tensors.empty()) return;
  std::vector<at::Tensor> value_views, gradient_views, first_views, second_views;
  for (const auto& [unit, i] : tensors) {
    value_views.push_back(values.views(unit)[i]);
    gradient_views.push_back(gradient.views(unit)[i]);
    first_views.push_back(first_moment_.views(unit)[i]);
    second_views.push_back(second_moment_.views(unit)[i]);
  }
  // The kernel only reads the step, so one number serves all.
  const at::Tensor step_number = at::full({}, static_cast<double>(step), value_views[0].options());
  const std::vector<at::Tensor> steps(value_views.size(), step_number);
  at::_fused_adamw_(value_views, gradient_views, first_views, second_views, /*max_exp_avg_sqs=*/{}, steps, learning_rate,
                    options_.beta1, options_.beta2, weight_decay, options_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false);
}

}  // namespace anneal::trainer
