#include "worker/trainer/checkpoint/state_slices.h"

#include <algorithm>

#include "common/base/status.h"

namespace anneal::trainer {

absl::string_view StateKindName(StateKind kind) {
  switch (kind) {
    case StateKind::kValue:
      return "value";
    case StateKind::kFirstMoment:
      return "first_moment";
    case StateKind::kSecondMoment:
      return "second_moment";
  }
  ANNEAL_CHECK(false);
  return "";
}

void AppendSlices(StateKind kind, const FlatUnit& unit, int64_t first, const at::Tensor& flat,
                  std::vector<StateSlice>& slices) {
  const int64_t last = first + flat.numel();
  for (const FlatTensor& tensor : unit.tensors) {
    const int64_t begin = std::max(first, tensor.offset);
    const int64_t end = std::min(last, tensor.offset + tensor.elements);
    if (begin >= end) continue;
    slices.push_back({.kind = kind,
                      .tensor = tensor.name,
                      .first = begin - tensor.offset,
                      .elements = flat.narrow(0, begin - first, end - begin)});
  }
}

}  // namespace anneal::trainer
