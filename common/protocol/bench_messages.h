#pragma once
// What anneal-trainer's short-lived commands for anneal doctor say, each as a line of JSON on
// standard output.

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/format/json.h"

namespace anneal::protocol {

// Rank 0 of `bench-collective` says first where the other rank finds it: this, a space, and
// "address:port".
inline constexpr char kRendezvousWord[] = "rendezvous";

// What one of two ranks has measured. Bytes are those that reach this rank.
struct CollectiveFigures {
  std::string library;  // "Gloo", "NCCL 2.27.5"
  // From the other rank, while nothing goes the other way.
  double one_way_bytes_per_second = 0;
  // From the other rank, while as much goes the other way.
  double all_to_all_bytes_per_second = 0;
  // Of the tensor that is summed.
  double all_reduce_bytes_per_second = 0;
  // Of a sum of one number, the median.
  double latency_seconds = 0;
};
Json ToJson(const CollectiveFigures& figures);
// INVALID_ARGUMENT for text that is not one.
absl::StatusOr<CollectiveFigures> CollectiveFiguresFromJson(const Json& json);

// What `check-cuda` has found.
struct CudaReport {
  std::string library;  // path of the trainer's CUDA library, which has been loaded
  std::string nccl;     // "2.27.5"
  int devices = 0;      // that CUDA shows
  std::string started;  // numeric fingerprint of the device it started; empty = it was not asked to
};
Json ToJson(const CudaReport& report);
absl::StatusOr<CudaReport> CudaReportFromJson(const Json& json);

}  // namespace anneal::protocol
