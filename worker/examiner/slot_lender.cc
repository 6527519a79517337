#include "worker/examiner/slot_lender.h"

#include <algorithm>

namespace anneal {

void SlotLender::SetBusy(std::set<std::string> ids) {
  absl::MutexLock lock(&mu_);
  busy_ = std::move(ids);
  for (const std::string& id : busy_) {
    if (lent_.count(id) > 0) over_.insert(id);
  }
}

bool SlotLender::Has(v1::ResourceSpec::Accelerator accelerator) const {
  return std::any_of(slots_.begin(), slots_.end(), [accelerator](const TrainerSlot& slot) {
    return slot.accelerator == accelerator;
  });
}

std::unique_ptr<SlotLender::Loan> SlotLender::Borrow(v1::ResourceSpec::Accelerator accelerator) {
  absl::MutexLock lock(&mu_);
  for (const TrainerSlot& slot : slots_) {
    if (slot.accelerator != accelerator || busy_.count(slot.id) > 0 || lent_.count(slot.id) > 0)
      continue;
    lent_.insert(slot.id);
    return std::unique_ptr<Loan>(new Loan(*this, slot));
  }
  return nullptr;
}

SlotLender::Loan::~Loan() {
  absl::MutexLock lock(&lender_.mu_);
  lender_.lent_.erase(slot_.id);
  lender_.over_.erase(slot_.id);
}

bool SlotLender::Loan::is_over() const {
  absl::MutexLock lock(&lender_.mu_);
  return lender_.over_.count(slot_.id) > 0;
}

}  // namespace anneal
