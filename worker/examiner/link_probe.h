#pragma once
// How fast one machine reaches another: a plain TCP stream between the addresses, and on ports of
// the kernel's choice, as collectives use them.
//
// The one that measures connects and sends the examination's token (32 bytes). After the answer 'k'
// it sends single bytes, each of which comes back at once. Then one of
//   's'  and bytes for as long as it likes, until it closes its half; the answer is their number, 8
//        bytes, little-endian
//   'b'  the answer is bytes for half a second, of which the last is an 'e'
//   'c'  what follows is in collective_probe.h

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "anneal/internal/fleet_service.pb.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/thread.h"
#include "worker/examiner/collective_probe.h"

namespace anneal {

// Answers measurements, one after another, so that they do not share what they measure; those who
// wait are not kept longer than a measurement may take. One that does not show the token is sent
// away. One thread of its own, "links". Thread-safe.
class LinkListener {
 public:
  // At any free port of `address`, an IP address. `token` has 32 bytes. `collectives`, which
  // outlives it, answers for that part; null = nobody does.
  static absl::StatusOr<std::unique_ptr<LinkListener>> Start(const std::string& address,
                                                             absl::string_view token,
                                                             CollectiveProbe* collectives);
  ~LinkListener();

  // "10.0.0.1:40123"
  const std::string& address() const { return address_; }

 private:
  LinkListener(UniqueFd listener, std::string address, absl::string_view token,
               CollectiveProbe* collectives);
  void Serve();

  const UniqueFd listener_;
  const std::string address_;
  const std::string token_;
  CollectiveProbe* const collectives_;

  absl::Mutex mu_;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  int connection_ ABSL_GUARDED_BY(mu_) = -1;  // under way; the thread's

  Thread thread_;  // last: runs Serve() on the members above
};

struct LinkMeasurement {
  double bytes_per_second = 0;       // to the listener
  double back_bytes_per_second = 0;  // from it, afterwards
  double round_trip_seconds = 0;     // the shortest of some
};

// Measures the ways between `own_address` and a listener, for about half a second each.
// UNAVAILABLE, DEADLINE_EXCEEDED or UNAUTHENTICATED say what went wrong.
absl::StatusOr<LinkMeasurement> MeasureLink(const std::string& own_address,
                                            absl::string_view listener, absl::string_view token,
                                            Clock& clock);

// As CollectiveProbe::Measure, with a listener's.
absl::StatusOr<std::optional<internal::ExaminationResult::Collective>> MeasureCollective(
    const std::string& own_address, absl::string_view listener, absl::string_view token,
    v1::ResourceSpec::Accelerator accelerator, CollectiveProbe& collectives,
    const std::function<bool()>& cancelled);

}  // namespace anneal
