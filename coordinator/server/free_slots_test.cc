#include "coordinator/server/free_slots.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::testing::IsEmpty;

constexpr auto kCpu = v1::ResourceSpec::ACCELERATOR_CPU;
constexpr auto kGpu = v1::ResourceSpec::ACCELERATOR_GPU;
constexpr int64_t kDay = 20000;
const absl::Time kMidnight = absl::UnixEpoch() + absl::Hours(24) * kDay;
const absl::Time kNoon = kMidnight + absl::Hours(12);

// `jobs`: of each slot, who holds it.
v1::Worker WorkerWith(const std::string& name, v1::ResourceSpec::Accelerator accelerator,
                      const std::vector<std::string>& jobs,
                      v1::Worker::State state = v1::Worker::STATE_READY) {
  v1::Worker worker;
  worker.set_name(absl::StrCat("workers/", name));
  worker.set_state(state);
  for (const std::string& job : jobs) {
    v1::Slot& slot = *worker.add_slots();
    slot.set_id(absl::StrCat("s", worker.slots_size() - 1));
    slot.set_accelerator(accelerator);
    slot.set_job(job);
  }
  return worker;
}

double FreeOn(const FreeSlots& slots, int64_t day, v1::ResourceSpec::Accelerator accelerator) {
  const auto found = slots.counted().find({day, "", "", accelerator});
  return found == slots.counted().end() ? 0 : found->second.free;
}

TEST(FreeSlotsTest, CountsWhatReadyWorkersHaveAndNobodyHolds) {
  FreeSlots slots;
  slots.Look({WorkerWith("w1", kCpu, {"", "jobs/a", ""}), WorkerWith("w2", kGpu, {""}),
              WorkerWith("w3", kGpu, {""}, v1::Worker::STATE_DRAINING),
              WorkerWith("w4", kGpu, {""}, v1::Worker::STATE_LOST)},
             {}, kNoon);
  EXPECT_THAT(slots.counted(), IsEmpty()) << "nothing has passed";
  slots.Look({WorkerWith("w1", kCpu, {"jobs/b", "jobs/a", ""})}, {}, kNoon + absl::Seconds(10));
  slots.Look({}, {}, kNoon + absl::Seconds(15));
  slots.Look({}, {}, kNoon + absl::Seconds(40));
  EXPECT_DOUBLE_EQ(FreeOn(slots, kDay, kCpu), 25);
  EXPECT_DOUBLE_EQ(FreeOn(slots, kDay, kGpu), 10);
  slots.Clear();
  EXPECT_THAT(slots.counted(), IsEmpty());
}

TEST(FreeSlotsTest, KeptSlotsAreTheJobsOwnUnlessTheirWorkerWasLost) {
  auto job = std::make_shared<internal::JobRecord>();
  for (const char* slot : {"s0", "s1"}) {
    internal::RankRecord& rank = *job->mutable_train()->add_ranks();
    rank.set_worker("w1");
    rank.set_slot_id(slot);
  }
  job->mutable_train()->mutable_ranks(1)->set_lost(true);
  FreeSlots slots;
  slots.Look({WorkerWith("w1", kCpu, {"", "", ""})}, {{"a", job}}, kNoon);
  slots.Look({}, {}, kNoon + absl::Seconds(10));
  EXPECT_DOUBLE_EQ(FreeOn(slots, kDay, kCpu), 20);
}

TEST(FreeSlotsTest, DaysEndAtMidnightAndLongAbsencesAreNotCounted) {
  const v1::Worker worker = WorkerWith("w1", kCpu, {""});
  FreeSlots slots;
  slots.Look({worker}, {}, kMidnight - absl::Seconds(2));
  slots.Look({worker}, {}, kMidnight + absl::Seconds(3));
  EXPECT_DOUBLE_EQ(FreeOn(slots, kDay - 1, kCpu), 2);
  EXPECT_DOUBLE_EQ(FreeOn(slots, kDay, kCpu), 3);
  slots.Look({worker}, {}, kMidnight + absl::Hours(3));
  slots.Look({worker}, {}, kMidnight);
  slots.Look({worker}, {}, kMidnight + absl::Seconds(1));
  EXPECT_DOUBLE_EQ(FreeOn(slots, kDay, kCpu), 4) << "nor a clock that is set back";
}

}  // namespace
}  // namespace anneal
