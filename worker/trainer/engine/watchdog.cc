#include "worker/trainer/engine/watchdog.h"

#include <utility>

namespace anneal::trainer {
namespace {

constexpr absl::Duration kInterval = absl::Seconds(1);

}  // namespace

Watchdog::Watchdog(Clock& clock, const Whereabouts& whereabouts, Callback tell, Callback hung)
    : clock_(clock),
      whereabouts_(whereabouts),
      tell_(std::move(tell)),
      hung_(std::move(hung)),
      thread_("watchdog", [this] { Watch(); }) {}

Watchdog::~Watchdog() {
  {
    absl::MutexLock lock(&mu_);
    done_ = true;
  }
  thread_.Join();
}

void Watchdog::Watch() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      if (clock_.AwaitWithTimeout(&mu_, absl::Condition(&done_), kInterval)) return;
    }
    const Whereabouts::Position position = whereabouts_.Look();
    tell_(position);
    if (position.overdue() && !position.in_collective) hung_(position);
  }
}

}  // namespace anneal::trainer
