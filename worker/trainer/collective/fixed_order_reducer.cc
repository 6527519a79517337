#include "worker/trainer/collective/fixed_order_reducer.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>

#include "absl/numeric/bits.h"
#include "common/base/status.h"

namespace anneal::trainer {
namespace {

bool AnyHasValues(const std::vector<bool>& has_values) {
  return std::find(has_values.begin(), has_values.end(), true) != has_values.end();
}

// Adds parts pairwise in place, level by level; null stands for an empty subtree. Returns the root.
const at::Tensor* AddInTreeOrder(std::vector<at::Tensor*> level) {
  while (level.size() > 1) {
    std::vector<at::Tensor*> above;
    for (size_t i = 0; i < level.size(); i += 2) {
      if (level[i] != nullptr && level[i + 1] != nullptr) level[i]->add_(*level[i + 1]);
      above.push_back(level[i] != nullptr ? level[i] : level[i + 1]);
    }
    level = std::move(above);
  }
  return level[0];
}

}  // namespace

FixedOrderReducer::FixedOrderReducer(Communicator& communicator) : communicator_(communicator) {
  ANNEAL_CHECK(absl::has_single_bit(static_cast<uint32_t>(communicator.world_size())));
}

absl::Status FixedOrderReducer::Sum(at::Tensor& flat_N, const std::vector<bool>& has_values,
                                    absl::string_view tag) {
  if (!AnyHasValues(has_values)) {
    flat_N.zero_();
    return absl::OkStatus();
  }
  if (communicator_.world_size() == 1) return absl::OkStatus();
  ANNEAL_ASSIGN_OR_RETURN(const at::Tensor sum, SumReceived(flat_N, has_values, tag));
  return communicator_.AllGather(sum, flat_N, tag);
}

absl::Status FixedOrderReducer::SumPart(const at::Tensor& flat_N,
                                        const std::vector<bool>& has_values, at::Tensor& part,
                                        absl::string_view tag) {
  ANNEAL_CHECK(part.numel() * communicator_.world_size() == flat_N.numel());
  if (!AnyHasValues(has_values)) {
    part.zero_();
    return absl::OkStatus();
  }
  if (communicator_.world_size() == 1) {
    part.copy_(flat_N);
    return absl::OkStatus();
  }
  ANNEAL_ASSIGN_OR_RETURN(const at::Tensor sum, SumReceived(flat_N, has_values, tag));
  part.copy_(sum);
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> FixedOrderReducer::SumReceived(const at::Tensor& flat_N,
                                                          const std::vector<bool>& has_values,
                                                          absl::string_view tag) {
  const int world_size = communicator_.world_size();
  const int64_t size = flat_N.numel();
  ANNEAL_CHECK(static_cast<int>(has_values.size()) == world_size && size % world_size == 0);
  if (!received_.defined() || received_.numel() < size)
    received_ = at::empty({size}, flat_N.options());
  at::Tensor received = received_.narrow(0, 0, size);
  ANNEAL_RETURN_IF_ERROR(communicator_.AllToAll(flat_N, received, tag));

  std::vector<at::Tensor> parts = received.chunk(world_size);
  std::vector<at::Tensor*> leaves;
  for (int rank = 0; rank < world_size; ++rank)
    leaves.push_back(has_values[rank] ? &parts[rank] : nullptr);
  return *AddInTreeOrder(std::move(leaves));
}

absl::Status SumInAnyOrder(Communicator& communicator, at::Tensor& flat_N,
                           const std::vector<bool>& has_values, absl::string_view tag) {
  if (!has_values[communicator.rank()]) flat_N.zero_();
  return communicator.AllReduceSum(flat_N, tag);
}

absl::Status SumPartInAnyOrder(Communicator& communicator, at::Tensor& flat_N,
                               const std::vector<bool>& has_values, at::Tensor& part,
                               absl::string_view tag) {
  if (!has_values[communicator.rank()]) flat_N.zero_();
  return communicator.ReduceScatterSum(flat_N, part, tag);
}

}  // namespace anneal::trainer
