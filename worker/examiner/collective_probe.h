#pragma once
// Collectives between two workers, measured as jobs run them: a trainer in a free slot of each.
//
// Both talk over a connection of link_probe.h. The one that measures says for which kind of slot;
// the other answers "absent" (it has none of the kind), "skipped" and why, or "ready", and then
// holds a slot. The first starts rank 0 and says where its rendezvous is; the other starts rank 1
// and answers with what that has measured, or with what went wrong.

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "anneal/internal/fleet_service.pb.h"
#include "common/base/clock.h"
#include "common/protocol/bench_messages.h"
#include "worker/examiner/slot_lender.h"

namespace anneal {

// Thread-safe: any number of measurements may be under way, each in slots of its own.
class CollectiveProbe {
 public:
  struct Options {
    std::string worker;  // its name, for what is said
    std::string data_address;
    // For a trainer to start, to find the other and to measure.
    absl::Duration patience = absl::Seconds(60);
  };
  // `lender` and `clock` outlive it.
  CollectiveProbe(Options options, SlotLender& lender, Clock& clock)
      : options_(std::move(options)), lender_(lender), clock_(clock) {}

  bool Has(v1::ResourceSpec::Accelerator accelerator) const { return lender_.Has(accelerator); }

  // Over a connection on which a listener has been asked for it. Nothing if the other worker has no
  // slots of the kind. Takes as long as both trainers, unless `cancelled` returns true, which is
  // asked every few milliseconds.
  std::optional<internal::ExaminationResult::Collective> Measure(
      int fd, v1::ResourceSpec::Accelerator accelerator, const std::function<bool()>& cancelled);
  // The other side. What goes wrong is told on the connection.
  absl::Status Answer(int fd);

 private:
  std::string AllBusy(v1::ResourceSpec::Accelerator accelerator) const;
  // Measures as rank 0, with a slot of each held. ABORTED if a task needs one of them.
  absl::Status MeasureWith(int fd, SlotLender::Loan& loan, const std::function<bool()>& cancelled,
                           internal::ExaminationResult::Collective& found);
  absl::StatusOr<protocol::CollectiveFigures> RunRank0(int fd, SlotLender::Loan& loan,
                                                       const std::function<bool()>& must_end);
  absl::StatusOr<protocol::CollectiveFigures> RunRank1(int fd, SlotLender::Loan& loan,
                                                       const std::string& rendezvous);

  const Options options_;
  SlotLender& lender_;
  Clock& clock_;
};

}  // namespace anneal
