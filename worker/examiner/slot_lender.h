#pragma once
// Which slots of a worker no task holds, for measurements that need one for some seconds.

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "anneal/v1/job.pb.h"

namespace anneal {

// How a trainer starts in a slot.
struct TrainerSlot {
  std::string id;
  v1::ResourceSpec::Accelerator accelerator = v1::ResourceSpec::ACCELERATOR_CPU;
  std::string program;
  std::map<std::string, std::string> environment;
};

// Tasks come first: a loan holds nothing back. When a task takes the slot, the loan is over at
// once, and the borrower ends what it does there. The slots' locks (docs/formats/run_folder.md) are
// therefore not taken: a task that found one taken would be refused. Thread-safe.
class SlotLender {
 public:
  explicit SlotLender(std::vector<TrainerSlot> slots) : slots_(std::move(slots)) {}

  // What tasks hold from now on.
  void SetBusy(std::set<std::string> ids);
  bool Has(v1::ResourceSpec::Accelerator accelerator) const;

  // Outlived by the lender. Guarded by its owner.
  class Loan {
   public:
    ~Loan();
    const TrainerSlot& slot() const { return slot_; }
    // Whether what is done there must end.
    bool is_over() const;

   private:
    friend class SlotLender;
    Loan(SlotLender& lender, const TrainerSlot& slot) : lender_(lender), slot_(slot) {}
    SlotLender& lender_;
    const TrainerSlot& slot_;
  };
  // Any free slot of that kind; null if none is.
  std::unique_ptr<Loan> Borrow(v1::ResourceSpec::Accelerator accelerator);

 private:
  const std::vector<TrainerSlot> slots_;
  mutable absl::Mutex mu_;
  std::set<std::string> busy_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> lent_ ABSL_GUARDED_BY(mu_);  // also those that are over
  std::set<std::string> over_ ABSL_GUARDED_BY(mu_);  // of lent_
};

}  // namespace anneal
