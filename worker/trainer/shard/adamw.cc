#include "worker/trainer/shard/adamw.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>

#include <vector>

namespace anneal::trainer {

AdamW::AdamW(const FlatLayout& layout, const Part& part, const AdamWOptions& options,
             at::Device device)
    : options_(options),
      decayed_(Select(layout, part, true)),
      not_decayed_(Select(layout, part, false)),
      first_moment_(ZeroParts(layout, part, device)),
      second_moment_(ZeroParts(layout, part, device)) {}

std::vector<AdamW::Owned> AdamW::Select(const FlatLayout& layout, const Part& part,
                                        bool weight_decay) {
  std::vector<Owned> selected;
  for (int unit = 0; unit < static_cast<int>(layout.units().size()); ++unit) {
    for (const FlatTensor& tensor : layout.units()[unit].tensors) {
      const Segment segment = SegmentOf(layout.units()[unit], tensor, part);
      if (segment.elements > 0 && tensor.weight_decay == weight_decay)
        selected.push_back({unit, segment});
    }
  }
  return selected;
}

void AdamW::Step(int64_t step, double learning_rate, const FlatParts& values,
                 const FlatParts& gradient) {
  StepSome(decayed_, options_.weight_decay, step, learning_rate, values, gradient);
  StepSome(not_decayed_, 0, step, learning_rate, values, gradient);
}

void AdamW::StepSome(const std::vector<Owned>& tensors, double weight_decay, int64_t step,
                     double learning_rate, const FlatParts& values, const FlatParts& gradient) {
  if (tensors.empty()) return;
  std::vector<at::Tensor> value_views, gradient_views, first_views, second_views;
  for (const Owned& owned : tensors) {
    value_views.push_back(owned.In(values));
    gradient_views.push_back(owned.In(gradient));
    first_views.push_back(owned.In(first_moment_));
    second_views.push_back(owned.In(second_moment_));
  }
  // The kernel only reads the step, so one number serves all.
  const at::Tensor step_number = at::full({}, static_cast<double>(step), value_views[0].options());
  const std::vector<at::Tensor> steps(value_views.size(), step_number);
  at::_fused_adamw_(value_views, gradient_views, first_views, second_views, /*max_exp_avg_sqs=*/{},
                    steps, learning_rate, options_.beta1, options_.beta2, weight_decay,
                    options_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false);
}

}  // namespace anneal::trainer
