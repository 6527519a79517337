#include "common/spec/resolve_operation.h"

#include <utility>

#include "common/spec/resolve.h"

namespace anneal::spec {
namespace {

constexpr int64_t kDefaultCheckpointSeconds = 600;
constexpr int64_t kMaxCheckpointSeconds = 30 * 24 * 3600;
constexpr int kMaxFailures = 1000000;

void ResolveCheckpoint(v1::CheckpointSpec* checkpoint, FieldRules* fields, IssueList* issues) {
  if (!checkpoint->has_every()) {
    checkpoint->mutable_every()->set_seconds(kDefaultCheckpointSeconds);
    fields->NoteOrigin("checkpoint.", "every", kOriginDefault);
  }
  const google::protobuf::Duration& every = checkpoint->every();
  const bool never = every.seconds() == 0 && every.nanos() == 0;
  if (!never && (every.seconds() < 1 || every.seconds() > kMaxCheckpointSeconds ||
                 every.nanos() < 0 || every.nanos() > 999'999'999)) {
    issues->AddError(kOutOfRange, "checkpoint.every", "is out of range: 1s to 720h, or 0s",
                     "write 10m, 90s or 1h30m");
  }
  fields->Default(checkpoint, "checkpoint.", v1::CheckpointSpec::kKeepLastFieldNumber, int64_t{2},
                  kOriginDefault);
  fields->CheckRange("checkpoint.keep_last", checkpoint->keep_last(), 1, 100);
}

void ResolveLimits(v1::LimitSpec* limits, FieldRules* fields) {
  fields->Default(limits, "limits.", v1::LimitSpec::kMaxHoursFieldNumber, 0.0, kOriginDefault);
  fields->Default(limits, "limits.", v1::LimitSpec::kMaxSlotSecondsFieldNumber, 0.0,
                  kOriginDefault);
  fields->CheckDouble("limits.max_hours", limits->max_hours(), limits->max_hours() >= 0,
                      "0 (no limit) or more");
  fields->CheckDouble("limits.max_slot_seconds", limits->max_slot_seconds(),
                      limits->max_slot_seconds() >= 0, "0 (no limit) or more");
}

void ResolveRetry(v1::RetrySpec* retry, FieldRules* fields) {
  for (const auto& [field, value] :
       {std::pair(v1::RetrySpec::kMaxInfrastructureFailuresFieldNumber, 100),
        std::pair(v1::RetrySpec::kMaxUserFailuresFieldNumber, 0),
        std::pair(v1::RetrySpec::kMaxUnknownFailuresFieldNumber, 3)}) {
    fields->Default(retry, "retry.", field, int64_t{value}, kOriginDefault);
  }
  fields->CheckRange("retry.max_infrastructure_failures", retry->max_infrastructure_failures(), 0,
                     kMaxFailures);
  fields->CheckRange("retry.max_user_failures", retry->max_user_failures(), 0, kMaxFailures);
  fields->CheckRange("retry.max_unknown_failures", retry->max_unknown_failures(), 0, kMaxFailures);
}

}  // namespace

void ResolveOperation(v1::JobSpec* spec, FieldRules* fields, IssueList* issues) {
  ResolveCheckpoint(spec->mutable_checkpoint(), fields, issues);
  ResolveLimits(spec->mutable_limits(), fields);
  ResolveRetry(spec->mutable_retry(), fields);
  fields->Default(spec, "", v1::JobSpec::kPriorityFieldNumber,
                  int64_t{v1::JobSpec::PRIORITY_NORMAL}, kOriginDefault);
  fields->CheckEnum(*spec, "", v1::JobSpec::kPriorityFieldNumber);
}

}  // namespace anneal::spec
