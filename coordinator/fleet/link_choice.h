#pragma once
// Which ways between workers are measured, and what their numbers mean.

#include <string>
#include <utility>
#include <vector>

#include "anneal/internal/fleet_service.pb.h"
#include "anneal/v1/cluster_service.pb.h"
#include "common/base/random.h"

namespace anneal {

// Pairs of numbers, smaller first. No number comes twice, so that no measurement is in the way of
// another.
using LinkRound = std::vector<std::pair<int, int>>;

// Rounds in which the numbers below `count` are paired, each pair at most once. All pairs, in as
// few rounds as can be, up to 32 workers and where `all_pairs` asks for it; of more, a ring and as
// many pairs again at random: so each takes part, and the effort does not grow with the fleet.
std::vector<LinkRound> PlanLinkRounds(int count, bool all_pairs, Random& random);

// What one worker has measured between itself and another.
struct MeasuredLink {
  std::string from;
  internal::ExaminationResult::Link link;
};

// Checks of the plain link and of each kind of collective, on the machine that measured. Slow is
// what is much slower than the median of all of its kind, in either direction: what is fast enough
// depends on the network, that it is even does not.
std::vector<v1::Check> JudgeLinks(const std::vector<MeasuredLink>& links);

}  // namespace anneal
