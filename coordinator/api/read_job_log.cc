#include "coordinator/api/read_job_log.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/storage/layout.h"
#include "coordinator/lifecycle/states.h"

namespace anneal {
namespace {

constexpr int64_t kChunkBytes = 64 << 10;

}  // namespace

ReadJobLogStream::ReadJobLogStream(const Parts& parts, ProjectLimits::Stream place,
                                   std::string project, std::string job, int64_t generation,
                                   const v1::ReadJobLogRequest& request)
    : PumpedWriter(parts.pump, std::move(place), &parts.pool),
      parts_(parts),
      project_(std::move(project)),
      job_(std::move(job)),
      generation_(generation),
      rank_(request.rank()),
      follow_(request.follow()),
      path_(parts.storage.Absolute(JobLogPath(job_, generation, rank_))),
      offset_(request.offset()) {}

bool ReadJobLogStream::MayGrow() const {
  const std::shared_ptr<const internal::JobRecord> record = parts_.catalog.FindJob(project_, job_);
  if (record == nullptr || IsTerminal(record->job().state())) return false;
  if (rank_ < 0) return !record->prepare().ended();
  return generation_ == record->job().generation();
}

absl::StatusOr<ReadJobLogStream::Due> ReadJobLogStream::Next(v1::LogChunk* message) {
  // Asked before reading: what is written until the end is then read.
  const bool may_grow = follow_ && MayGrow();
  absl::StatusOr<std::unique_ptr<ReadableFile>> file = parts_.storage.files().OpenForRead(path_);
  if (!file.ok()) {
    if (!absl::IsNotFound(file.status())) return file.status();
    if (may_grow) return Due::kNothing;
    return WithReason(absl::NotFoundError(absl::StrCat("there is no such log of jobs/", job_)),
                      "NOT_FOUND");
  }
  ANNEAL_ASSIGN_OR_RETURN(std::string data, (*file)->ReadAt(offset_, kChunkBytes));
  if (data.empty()) return may_grow ? Due::kNothing : Due::kEnd;
  message->set_offset(offset_);
  offset_ += static_cast<int64_t>(data.size());
  message->set_data(std::move(data));
  return Due::kMessage;
}

}  // namespace anneal
