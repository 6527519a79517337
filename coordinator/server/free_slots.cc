#include "coordinator/server/free_slots.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace anneal {
namespace {

constexpr absl::Duration kLongestLook = absl::Minutes(1);

}  // namespace

void FreeSlots::Look(const std::vector<v1::Worker>& roster, const JobTable& recovering,
                     absl::Time now) {
  if (now > last_ && now - last_ <= kLongestLook) {
    for (const auto& [accelerator, slots] : free_) {
      ForEachDay(last_, now, [&, kind = accelerator, count = slots](int64_t day, double seconds) {
        counted_[{day, "", "", kind}].free += seconds * count;
      });
    }
  }
  last_ = now;
  free_.clear();
  std::set<std::pair<std::string, std::string>> kept;  // by worker and slot
  for (const auto& [id, record] : recovering) {
    for (const internal::RankRecord& rank : record->train().ranks()) {
      if (IsKept(rank)) kept.emplace(absl::StrCat("workers/", rank.worker()), rank.slot_id());
    }
  }
  for (const v1::Worker& worker : roster) {
    if (worker.state() != v1::Worker::STATE_READY) continue;
    for (const v1::Slot& slot : worker.slots()) {
      if (slot.job().empty() && kept.count({worker.name(), slot.id()}) == 0)
        ++free_[slot.accelerator()];
    }
  }
}

}  // namespace anneal
