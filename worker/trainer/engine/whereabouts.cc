#include "worker/trainer/engine/whereabouts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace anneal::trainer {
namespace {

constexpr absl::Duration kShortestPatience = absl::Seconds(10);
constexpr int kPatienceFactor = 5;
// What is left of it to look (once a second), tell, and start another.
constexpr absl::Duration kReplacementTime = absl::Seconds(2);
constexpr absl::Duration kFirstLimit = absl::Minutes(10);

}  // namespace

Whereabouts::Whereabouts(Clock& clock, OnEnter on_enter)
    : clock_(clock), on_enter_(std::move(on_enter)), last_mark_(clock.MonotonicNow()) {}

void Whereabouts::Mark() {
  const absl::Duration now = clock_.MonotonicNow();
  if (pace_ == Pace::kSteady) {
    auto& seen = position_.in_collective ? longest_wait_ : longest_;
    absl::Duration& longest = seen[position_.activity];
    longest = std::max(longest, now - last_mark_);
  }
  last_mark_ = now;
}

void Whereabouts::Enter(absl::string_view activity, int64_t step, Pace pace) {
  {
    absl::MutexLock lock(&mu_);
    Mark();
    position_.activity = std::string(activity);
    position_.step = step;
    pace_ = pace;
  }
  if (on_enter_) on_enter_(activity, step);
}

void Whereabouts::BeginCollective(absl::string_view tag) {
  absl::MutexLock lock(&mu_);
  Mark();
  position_.collective = std::string(tag);
  ++position_.collective_sequence;
  position_.in_collective = true;
}

void Whereabouts::EndCollective() {
  absl::MutexLock lock(&mu_);
  Mark();
  position_.in_collective = false;
}

Whereabouts::Position Whereabouts::Look() const {
  absl::MutexLock lock(&mu_);
  Position position = position_;
  position.since = clock_.MonotonicNow() - last_mark_;
  if (pace_ == Pace::kUnsteady) {
    position.limit = absl::InfiniteDuration();
    return position;
  }
  const auto& seen = position.in_collective ? longest_wait_ : longest_;
  const auto longest = seen.find(position.activity);
  position.limit =
      longest == seen.end()
          ? kFirstLimit
          : std::max(kShortestPatience, kPatienceFactor * longest->second) - kReplacementTime;
  return position;
}

std::string Describe(const Whereabouts::Position& position) {
  std::string text =
      absl::StrCat("in ", position.activity, " of step ", position.step, " for ",
                   absl::FormatDuration(absl::Trunc(position.since, absl::Milliseconds(100))));
  if (position.collective_sequence > 0) {
    absl::StrAppend(&text, position.in_collective ? ", inside" : ", after", " collective ",
                    position.collective_sequence, " '", position.collective, "'");
  }
  return text;
}

}  // namespace anneal::trainer
