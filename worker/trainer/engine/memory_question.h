#pragma once
// What a rank's memory depends on, for common/plan/memory_plan.h.

#include <cstdint>
#include <functional>

#include "common/plan/memory_plan.h"
#include "common/plan/step_plan.h"
#include "common/protocol/messages.h"
#include "worker/trainer/model/decoder.h"
#include "worker/trainer/shard/flat_layout.h"

namespace anneal::trainer {

// Of the rank and the step that need most, among some steps spread over the run. `row_tokens`: the
// length of a row. Reads nothing but what it is given.
MemoryQuestion MemoryQuestionOf(const protocol::TrainTask& task, const Decoder& decoder,
                                const FlatLayout& layout, const StepPlan& plan,
                                const std::function<int64_t(int64_t row)>& row_tokens,
                                bool device_is_host);

}  // namespace anneal::trainer
