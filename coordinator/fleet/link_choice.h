#pragma once
// Which ways between workers are measured, and what their numbers mean.

#include <string>
#include <utility>
#include <vector>

#include "anneal/v1/cluster_service.pb.h"
#include "common/base/random.h"

namespace anneal {

// Pairs of the numbers below `count`, smaller first, each once: all of them up to six workers; of
// more, a ring and as many again at random. So each takes part, and the effort grows with the
// fleet and not with its square.
std::vector<std::pair<int, int>> ChooseLinks(int count, Random& random);

// One measured way between two workers.
struct MeasuredLink {
  std::string from, to;
  double bytes_per_second = 0;
  double round_trip_seconds = 0;
  std::string error;  // why there are no numbers
};

// One check for each, on the machine that measured. Slow is what is much slower than the median of
// all: what is fast enough depends on the network, that it is even does not.
std::vector<v1::Check> JudgeLinks(const std::vector<MeasuredLink>& links);

}  // namespace anneal
