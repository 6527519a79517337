#include "common/protocol/bench_messages.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace anneal::protocol {
namespace {

absl::Status NotOne(absl::string_view what, const Json::exception& error) {
  return absl::InvalidArgumentError(absl::StrCat("not ", what, ": ", error.what()));
}

}  // namespace

Json ToJson(const CollectiveFigures& figures) {
  return {{"library", figures.library},
          {"one_way_bytes_per_second", figures.one_way_bytes_per_second},
          {"all_to_all_bytes_per_second", figures.all_to_all_bytes_per_second},
          {"all_reduce_bytes_per_second", figures.all_reduce_bytes_per_second},
          {"latency_seconds", figures.latency_seconds}};
}

absl::StatusOr<CollectiveFigures> CollectiveFiguresFromJson(const Json& json) {
  try {
    return CollectiveFigures{.library = json.at("library"),
                             .one_way_bytes_per_second = json.at("one_way_bytes_per_second"),
                             .all_to_all_bytes_per_second = json.at("all_to_all_bytes_per_second"),
                             .all_reduce_bytes_per_second = json.at("all_reduce_bytes_per_second"),
                             .latency_seconds = json.at("latency_seconds")};
  } catch (const Json::exception& error) {
    return NotOne("figures of collectives", error);
  }
}

Json ToJson(const CudaReport& report) {
  return {{"library", report.library},
          {"nccl", report.nccl},
          {"devices", report.devices},
          {"started", report.started}};
}

absl::StatusOr<CudaReport> CudaReportFromJson(const Json& json) {
  try {
    return CudaReport{.library = json.at("library"),
                      .nccl = json.at("nccl"),
                      .devices = json.at("devices"),
                      .started = json.at("started")};
  } catch (const Json::exception& error) {
    return NotOne("a report on CUDA", error);
  }
}

}  // namespace anneal::protocol
