#pragma once
// From a job's record to what its processes are told.

#include "anneal/internal/catalog.pb.h"
#include "common/protocol/messages.h"

namespace anneal {

// The task of the record's present prepare attempt. `threads` is what the worker has to give.
protocol::PrepareTask MakePrepareTask(const internal::JobRecord& record, int threads);

// The task of one rank of the record's present generation. The daemon fills data_address.
protocol::TrainTask MakeTrainTask(const internal::JobRecord& record, int rank);

}  // namespace anneal
