#include "worker/daemon/spare_policy.h"

namespace anneal {
namespace {
// Between two spares for one slot that were not used.
constexpr absl::Duration kRetryInterval = absl::Seconds(10);
}  // namespace

SparePolicy::SparePolicy(const std::vector<SpareRequest>& first) {
  for (const SpareRequest& request : first) slots_[request.slot].wanted = request.image;
}

void SparePolicy::Started(const std::string& slot, const ProcessImage& image) {
  slots_[slot] = {.wanted = image};
}

std::vector<SpareRequest> SparePolicy::Due(const std::set<std::string>& present, bool warming_up,
                                           absl::Duration now) {
  std::vector<SpareRequest> due;
  if (warming_up) return due;
  for (auto& [id, slot] : slots_) {
    const bool fits = present.count(id) > 0 && slot.asked == slot.wanted;
    if (fits || now < slot.not_before) continue;
    slot.asked = slot.wanted;
    slot.not_before = now + kRetryInterval;
    due.push_back({id, slot.wanted});
  }
  return due;
}

}  // namespace anneal
