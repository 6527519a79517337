#pragma once
// FineTuningService.ReadJobLog: the log file of one process, followed as it grows.

#include <string>

#include "anneal/v1/fine_tuning_service.pb.h"
#include "common/storage/storage_root.h"
#include "coordinator/api/pumped_writer.h"
#include "coordinator/api/transfer_pool.h"
#include "coordinator/catalog/catalog.h"

namespace anneal {

// Reads on the pool: the storage may hang, and nobody else's stream waits for it.
class ReadJobLogStream : public PumpedWriter<v1::LogChunk> {
 public:
  struct Parts {
    StreamPump& pump;
    TransferPool& pool;
    const Catalog& catalog;
    const StorageRoot& storage;
  };
  // `generation` is not 0 unless rank is -1.
  ReadJobLogStream(const Parts& parts, ProjectLimits::Stream place, std::string project,
                   std::string job, int64_t generation, const v1::ReadJobLogRequest& request);

 private:
  absl::StatusOr<Due> Next(v1::LogChunk* message) override;
  // Whether more may still be written.
  bool MayGrow() const;

  const Parts parts_;
  const std::string project_;
  const std::string job_;
  const int64_t generation_;
  const int32_t rank_;
  const bool follow_;
  const std::string path_;
  // Called by one thread at a time (PumpedWriter), like Next.
  int64_t offset_;
};

}  // namespace anneal
