#include "worker/trainer/checkpoint/resume.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/reasons.h"
#include "common/base/status.h"

namespace anneal::trainer {
namespace {

// How one rank finds a checkpoint, in the order of what counts when ranks differ.
enum Finding : int64_t { kWhole, kDamaged, kUnreadable };

Finding FindingOf(const absl::Status& status) {
  if (status.ok()) return kWhole;
  return absl::IsNotFound(status) || absl::IsDataLoss(status) || absl::IsInvalidArgument(status)
             ? kDamaged
             : kUnreadable;
}

struct Agreed {
  Finding finding = kWhole;
  int rank = 0;  // the first that found it so
};

absl::StatusOr<Agreed> Agree(Finding own, Communicator& communicator, at::Device device,
                             const std::string& tag) {
  const auto type = at::device(device).dtype(at::kLong);
  const at::Tensor sent = at::full({1}, static_cast<int64_t>(own), type);
  at::Tensor received = at::empty({communicator.world_size()}, type);
  ANNEAL_RETURN_IF_ERROR(communicator.AllGather(sent, received, tag));
  received = received.cpu();
  Agreed agreed;
  for (int rank = 0; rank < communicator.world_size(); ++rank) {
    const auto finding = static_cast<Finding>(received.const_data_ptr<int64_t>()[rank]);
    if (finding > agreed.finding) agreed = {finding, rank};
  }
  return agreed;
}

absl::StatusOr<CheckpointReader> OpenOne(const protocol::CheckpointReference& candidate,
                                         const ResumeOptions& options,
                                         const std::vector<StateRange>& state, bool with_records) {
  const std::string folder = protocol::ResolvePath(options.storage_root, candidate.dir);
  ANNEAL_ASSIGN_OR_RETURN(
      CheckpointReader reader,
      CheckpointReader::Open(folder, candidate.manifest_sha256, state, with_records));
  const CheckpointManifest& manifest = reader.manifest();
  if (manifest.step != candidate.step || manifest.total_steps != options.total_steps) {
    return absl::FailedPreconditionError(absl::StrCat(
        folder, " is of step ", manifest.step, " of ", manifest.total_steps, " of job ",
        manifest.job, ", and this job would go on from step ", candidate.step, " of ",
        options.total_steps, ": with other rows, epochs or batches it has another plan"));
  }
  return reader;
}

}  // namespace

absl::StatusOr<ResumePoint> ChooseCheckpoint(
    const std::vector<protocol::CheckpointReference>& candidates, const ResumeOptions& options,
    const std::vector<StateRange>& state, Communicator& communicator) {
  ResumePoint point;
  for (const protocol::CheckpointReference& candidate : candidates) {
    absl::StatusOr<CheckpointReader> reader =
        OpenOne(candidate, options, state, /*with_records=*/communicator.rank() == 0);
    const Finding own = FindingOf(reader.status());
    ANNEAL_ASSIGN_OR_RETURN(const Agreed agreed,
                            Agree(own, communicator, options.device,
                                  absl::StrCat("agree on checkpoint ", candidate.dir)));
    if (own != kWhole) {
      ANNEAL_LOG(ERROR) << "cannot resume from a checkpoint" << Field("dir", candidate.dir)
                        << Field("why", reader.status().ToString());
    }
    const std::string elsewhere =
        absl::StrCat("rank ", agreed.rank, " cannot read ", candidate.dir, "; its log says why");
    if (agreed.finding == kUnreadable) {
      return own == kUnreadable ? reader.status()
                                : WithReason(absl::UnavailableError(elsewhere), kCollectiveFailed);
    }
    if (agreed.finding == kDamaged) {
      point.report.damaged.push_back(
          {.dir = candidate.dir,
           .why = own == kDamaged ? std::string(reader.status().message()) : elsewhere});
      continue;
    }
    point.report.step = candidate.step;
    point.report.dir = candidate.dir;
    const std::string& before = reader->manifest().numeric_fingerprint;
    if (before != options.numeric_fingerprint) {
      point.report.fingerprint_change =
          absl::StrCat("was \"", before, "\", is \"", options.numeric_fingerprint, "\"");
    }
    point.checkpoint.emplace(*std::move(reader));
    break;
  }
  return point;
}

}  // namespace anneal::trainer
