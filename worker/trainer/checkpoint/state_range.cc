#include "worker/trainer/checkpoint/state_range.h"

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

}  // namespace anneal::trainer
