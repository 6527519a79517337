#pragma once
// How much memory a job will need, before it runs.

#include "anneal/v1/job.pb.h"
#include "common/format/model_config.h"
#include "common/plan/memory_plan.h"

namespace anneal::spec {

// What the ranks of a job will have to hold on the fewest slots that it may run on. `spec`: every
// value that matters is filled and in range. Rows count as data.max_length long, as their lengths
// are not known yet. The trainer asks the same of the rows it really has
// (worker/trainer/engine/memory_question.h). Pure.
MemoryQuestion MemoryQuestionOf(const v1::JobSpec& spec, const ModelConfig& config);

// What a slot with so much memory leaves for tensors: without the program's own and what its watch
// keeps free (worker/daemon/process_watch.h).
int64_t BytesForTensors(int64_t slot_bytes);

// By the names that both have.
Sharding ShardingOf(v1::TrainingSpec::Sharding sharding);
v1::TrainingSpec::Sharding ToProto(Sharding sharding);
v1::MemoryPlan ToProto(const MemoryPlan& plan);

// "1.20 GiB of 3.40 GiB a slot: weights 0.51, moments 0.02, ... (NONE needs ...)", one line.
std::string FormatMemoryPlan(const v1::MemoryPlan& plan);

}  // namespace anneal::spec
