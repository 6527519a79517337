#include "worker/prepare/held_out.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace anneal::prepare {
namespace {

// Below so many rows the default is to hold out none: what is left would be worth more in training.
constexpr int64_t kMinRowsForDefault = 50;

}  // namespace

int64_t HeldOutRows(const protocol::PrepareTask& task, int64_t rows) {
  if (task.validation_fraction <= 0 || rows < 2) return 0;
  int64_t wanted =
      static_cast<int64_t>(std::ceil(task.validation_fraction * static_cast<double>(rows)));
  if (task.validation_is_default) {
    if (rows < kMinRowsForDefault) return 0;
    wanted = std::max(wanted, task.min_validation_rows);
  }
  return std::min(wanted, rows - 1);
}

uint64_t HeldOut::KeyOf(absl::string_view row_text) const {
  Sha256 hash;
  hash.Update(&seed_, sizeof(seed_));
  hash.Update(row_text);
  uint64_t key = 0;
  ANNEAL_CHECK(absl::SimpleHexAtoi(hash.HexDigest().substr(0, 16), &key));
  return key;
}

void HeldOut::Choose(std::vector<uint64_t> keys, int64_t wanted) {
  ANNEAL_CHECK(wanted >= 0 && wanted <= static_cast<int64_t>(keys.size()));
  any_ = wanted > 0;
  if (!any_) return;
  std::nth_element(keys.begin(), keys.begin() + (wanted - 1), keys.end());
  limit_ = keys[wanted - 1];
}

}  // namespace anneal::prepare
