#include "coordinator/lifecycle/blame.h"

#include <algorithm>
#include <csignal>
#include <iterator>

#include "common/base/reasons.h"
#include "google/rpc/code.pb.h"

namespace anneal {
namespace {

// Reasons that outweigh the status code they come with.
constexpr absl::string_view kInfrastructureReasons[] = {
    "WORKER_LOST", "WORKER_RESTARTED", "DRAINING",       "UNRESPONSIVE",
    "STOPPED",     "PAUSED",           kCollectiveFailed};
constexpr absl::string_view kUserReasons[] = {kOutOfMemory, "NON_FINITE_LOSS", "BAD_DATA"};

template <size_t N>
bool Contains(const absl::string_view (&list)[N], absl::string_view reason) {
  return std::find(std::begin(list), std::end(list), reason) != std::end(list);
}

// A process does not send these to itself when it crashes.
bool ComesFromOutside(int32_t signal) {
  return signal == SIGKILL || signal == SIGTERM || signal == SIGINT || signal == SIGHUP;
}

}  // namespace

std::string BlameName(Blame blame) {
  switch (blame) {
    case Blame::kInfrastructure:
      return "infrastructure";
    case Blame::kUser:
      return "user";
    case Blame::kUnknown:
      return "unknown";
  }
  return "";
}

Blame BlameFor(const internal::TaskFailure& failure) {
  if (Contains(kInfrastructureReasons, failure.reason())) return Blame::kInfrastructure;
  if (Contains(kUserReasons, failure.reason())) return Blame::kUser;
  if (ComesFromOutside(failure.signal())) return Blame::kInfrastructure;
  switch (failure.code()) {
    case google::rpc::UNAVAILABLE:
    case google::rpc::ABORTED:
    case google::rpc::DEADLINE_EXCEEDED:
      return Blame::kInfrastructure;
    case google::rpc::INVALID_ARGUMENT:
    case google::rpc::NOT_FOUND:
    case google::rpc::PERMISSION_DENIED:
    case google::rpc::RESOURCE_EXHAUSTED:
    case google::rpc::FAILED_PRECONDITION:
    case google::rpc::OUT_OF_RANGE:
      return Blame::kUser;
    default:
      return Blame::kUnknown;
  }
}

}  // namespace anneal
