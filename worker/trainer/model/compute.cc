#include "worker/trainer/model/compute.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "common/base/status.h"
#include "worker/trainer/kernels/philox.h"
#include "worker/trainer/kernels/products.h"
#include "worker/trainer/model/weight_loader.h"

namespace anneal::trainer {
namespace {

void FillUniform(PhiloxKey key, double bound, at::Tensor& value) {
  at::Tensor drawn = at::empty(value.sizes(), at::kFloat);
  float* out = drawn.mutable_data_ptr<float>();
  const int64_t count = drawn.numel();
  for (int64_t i = 0; i < count; i += 4) {
    const PhiloxBlock block =
        Philox(key, {{static_cast<uint32_t>(i / 4), static_cast<uint32_t>(i / 4 >> 32), 0, 0}});
    for (int64_t j = i; j < std::min(count, i + 4); ++j) {
      out[j] = static_cast<float>((2.0 * PhiloxUniform(block.word[j - i]) - 1.0) * bound);
    }
  }
  value.copy_(drawn);
}

absl::Status CopyWeight(const ModelWeights& weights, const std::string& name, at::Tensor& value) {
  ANNEAL_ASSIGN_OR_RETURN(const at::Tensor stored,
                          LoadWeight(weights, name, value.device(), value.scalar_type()));
  value.copy_(stored);
  return absl::OkStatus();
}

}  // namespace

int ParameterList::Add(ParameterSpec spec, at::Tensor* tensor, Initial initial) {
  entries_.push_back({std::move(spec), tensor, initial});
  return static_cast<int>(entries_.size()) - 1;
}

void ParameterList::AddFrozen(ParameterSpec spec, at::Tensor* tensor) {
  frozen_.push_back({std::move(spec), tensor, Initial::kLoaded});
}

std::vector<ParameterSpec> ParameterList::specs() const {
  std::vector<ParameterSpec> out;
  for (const Entry& entry : entries_) out.push_back(entry.spec);
  return out;
}

std::vector<ParameterSpec> ParameterList::frozen_specs() const {
  std::vector<ParameterSpec> out;
  for (const Entry& entry : frozen_) out.push_back(entry.spec);
  return out;
}

absl::Status ParameterList::FillInitial(uint64_t seed, const ModelWeights* weights,
                                        std::span<at::Tensor> values) const {
  ANNEAL_CHECK(values.size() == entries_.size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    const ParameterSpec& spec = entries_[i].spec;
    ANNEAL_CHECK(values[i].sizes() == at::IntArrayRef(spec.shape));
    switch (entries_[i].initial) {
      case Initial::kLoaded:
        if (entries_[i].tensor->defined()) {
          values[i].copy_(*entries_[i].tensor);
        } else {
          ANNEAL_CHECK(weights != nullptr);
          ANNEAL_RETURN_IF_ERROR(CopyWeight(*weights, spec.name, values[i]));
        }
        break;
      case Initial::kUniform:
        FillUniform(MakePhiloxKey(seed, 0, spec.name),
                    1 / std::sqrt(static_cast<double>(spec.shape[1])), values[i]);
        break;
      case Initial::kZero:
        values[i].zero_();
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status ParameterList::FillFrozen(const ModelWeights& weights,
                                       std::span<at::Tensor> values) const {
  ANNEAL_CHECK(values.size() == frozen_.size());
  for (size_t i = 0; i < frozen_.size(); ++i)
    ANNEAL_RETURN_IF_ERROR(CopyWeight(weights, frozen_[i].spec.name, values[i]));
  return absl::OkStatus();
}

void ParameterList::BindTo(const std::vector<Entry>& entries, std::span<const at::Tensor> values) {
  ANNEAL_CHECK(values.size() == entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    ANNEAL_CHECK(!values[i].defined() ||
                 values[i].sizes() == at::IntArrayRef(entries[i].spec.shape));
    *entries[i].tensor = values[i];
  }
}

void WriteWeightGradient(const at::Tensor& dy, const at::Tensor& x, double scale, bool accumulate,
                         at::Tensor& gradient) {
  if (gradient.scalar_type() == dy.scalar_type()) {
    AddProduct(gradient, dy.t(), x, scale, /*beta=*/accumulate ? 1 : 0);
    return;
  }
  const at::Tensor product = Product(dy.t(), x);
  if (accumulate) {
    gradient.add_(product, scale);
  } else {
    gradient.copy_(product).mul_(scale);
  }
}

}  // namespace anneal::trainer
