#pragma once
// How fast two ranks reach each other with the collectives that jobs use.

#include <c10/core/Device.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "worker/trainer/collective/communicator.h"

namespace anneal::trainer {

// As one of the two sees it: bytes that reach it, in the median of a few calls.
struct Bandwidth {
  double one_way_bytes_per_second = 0;     // while nothing goes the other way
  double all_to_all_bytes_per_second = 0;  // while as much goes the other way
  double all_reduce_bytes_per_second = 0;  // of the tensor that is summed
  double latency_seconds = 0;              // of a sum of one number
};

// Sends some times `bytes` each way, on `device`, which is the communicator's. Both ranks of a
// world of two call it with the same `bytes`. Takes the time of about a dozen such transfers, and
// looks at what has arrived: DATA_LOSS if it is not what was sent.
absl::StatusOr<Bandwidth> MeasureBandwidth(Communicator& communicator, at::Device device,
                                           int64_t bytes, Clock& clock);

}  // namespace anneal::trainer
