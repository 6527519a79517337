#include "common/host/clock_check.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/host/check.h"

namespace anneal {
namespace {

constexpr char kName[] = "clock";
// Times in logs and events no longer tell what came first.
constexpr absl::Duration kLargestGood = absl::Seconds(1);
// Keys and certificates are refused, or live on, for as long.
constexpr absl::Duration kLargestBearable = absl::Seconds(30);
constexpr char kAdvice[] = "keep it by NTP (chrony or systemd-timesyncd) on every machine";

std::string Text(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(1)));
}

}  // namespace

void ClockBounds::SentAt(absl::Time ours, absl::Time theirs) {
  at_most_ = std::min(at_most_, theirs - ours);
}

void ClockBounds::ReceivedAt(absl::Time ours, absl::Time theirs) {
  at_least_ = std::max(at_least_, theirs - ours);
}

v1::Check ClockBounds::ToCheck(absl::string_view reference) const {
  // The smallest difference that fits what was seen, and the largest.
  const absl::Duration least = std::max({absl::ZeroDuration(), at_least_, -at_most_});
  const absl::Duration most = std::max(absl::AbsDuration(at_least_), absl::AbsDuration(at_most_));
  if (least <= kLargestGood)
    return OkCheck(kName, absl::StrCat("at most ", Text(most), " from ", reference, "'s"));
  const std::string measured =
      absl::StrCat("at least ", Text(least),
                   at_least_ > absl::ZeroDuration() ? " ahead of " : " behind ", reference, "'s");
  return least <= kLargestBearable ? WarningCheck(kName, measured, kAdvice)
                                   : FailedCheck(kName, measured, kAdvice);
}

}  // namespace anneal
