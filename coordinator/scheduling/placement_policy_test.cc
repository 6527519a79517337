#include "coordinator/scheduling/placement_policy.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::testing::ElementsAre;
using ::testing::Eq;

constexpr auto kCpu = v1::ResourceSpec::ACCELERATOR_CPU;
constexpr auto kGpu = v1::ResourceSpec::ACCELERATOR_GPU;

WorkerView Worker(std::string name, int slots, int free,
                  v1::ResourceSpec::Accelerator accelerator = kGpu) {
  WorkerView worker;
  worker.name = std::move(name);
  worker.free_prepare_slots = 1;
  for (int i = 0; i < slots; ++i)
    worker.slots.push_back({absl::StrCat("s", i), accelerator, "", i < free});
  return worker;
}
WaitingJob Queued(std::string id, int slots, int since = 0,
                  v1::ResourceSpec::Accelerator accelerator = kGpu) {
  return {std::move(id), absl::FromUnixSeconds(since), false, slots, accelerator};
}
WaitingJob Pending(std::string id, int since = 0) {
  return {std::move(id), absl::FromUnixSeconds(since), true};
}

std::vector<std::string> Places(const Decision& decision) {
  std::vector<std::string> places;
  if (const auto* assigned = std::get_if<SlotsAssigned>(&decision.event)) {
    for (const Placement& p : assigned->placements) places.push_back(p.worker + "/" + p.slot_id);
  }
  return places;
}
std::string Wait(const Decision& decision) {
  const auto* wait = std::get_if<WaitExplained>(&decision.event);
  return wait == nullptr ? "" : wait->message;
}
std::vector<Decision> Plan(std::vector<WorkerView> workers, std::vector<WaitingJob> queue) {
  return PlacementPolicy().Plan({std::move(workers)}, std::move(queue));
}

TEST(PlacementPolicyTest, AGangGoesToTheWorkerItFillsBest) {
  auto plan = Plan({Worker("a", 8, 8), Worker("b", 4, 3), Worker("c", 4, 2)}, {Queued("j", 2)});
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_THAT(Places(plan[0]), ElementsAre("c/s0", "c/s1"));
}

TEST(PlacementPolicyTest, RanksAreContiguousOnEachWorker) {
  auto plan = Plan({Worker("a", 2, 1), Worker("b", 4, 3), Worker("c", 4, 2)}, {Queued("j", 5)});
  EXPECT_THAT(Places(plan[0]), ElementsAre("b/s0", "b/s1", "b/s2", "c/s0", "c/s1"));
}

TEST(PlacementPolicyTest, SlotsAreGivenOnceAndInOrderOfArrival) {
  auto plan = Plan({Worker("a", 4, 4)}, {Queued("late", 2, 9), Queued("early", 2, 1)});
  EXPECT_EQ(plan[0].job, "early");
  EXPECT_THAT(Places(plan[0]), ElementsAre("a/s0", "a/s1"));
  EXPECT_THAT(Places(plan[1]), ElementsAre("a/s2", "a/s3"));
}

TEST(PlacementPolicyTest, FreeSlotsAreKeptForTheFirstThatFitsTheFleet) {
  auto plan = Plan({Worker("a", 4, 2)},
                   {Queued("big", 4, 1), Queued("small", 1, 2), Queued("cpu", 1, 3, kCpu)});
  EXPECT_EQ(Wait(plan[0]), "needs 4 GPU slots, 2 free");
  EXPECT_EQ(Wait(plan[1]), "needs 1 GPU slot, 2 free, kept for jobs/big, which came first");
  EXPECT_EQ(Wait(plan[2]), "needs 1 CPU slot, the fleet has 0");
}

TEST(PlacementPolicyTest, AJobTooLargeForTheFleetHoldsNobodyUp) {
  auto plan = Plan({Worker("a", 4, 2)}, {Queued("huge", 64, 1), Queued("small", 2, 2)});
  EXPECT_EQ(Wait(plan[0]), "needs 64 GPU slots, the fleet has 4");
  EXPECT_THAT(Places(plan[1]), ElementsAre("a/s0", "a/s1"));
}

TEST(PlacementPolicyTest, DrainingAndAbsentWorkersGetNothingAndAreNamed) {
  WorkerView draining = Worker("g3", 4, 4);
  draining.health = WorkerView::Health::kDraining;
  WorkerView away = Worker("g4", 4, 4);
  away.health = WorkerView::Health::kAway;
  WorkerView ready = Worker("g1", 4, 2);
  ready.free_prepare_slots = 0;
  auto plan = Plan({draining, away, ready}, {Queued("j", 4, 1), Pending("p", 2)});
  EXPECT_EQ(Wait(plan[0]), "needs 4 GPU slots, 2 free, worker g3 draining, worker g4 away");
  EXPECT_EQ(Wait(plan[1]), "needs a prepare slot, 0 free, worker g3 draining, worker g4 away");
  EXPECT_EQ(Wait(Plan({}, {Queued("j", 4)})[0]), "needs 4 GPU slots, no worker is connected");
}

TEST(PlacementPolicyTest, PrepareGoesToTheWorkerWithMostRoom) {
  WorkerView roomy = Worker("b", 0, 0);
  roomy.free_prepare_slots = 2;
  auto plan = Plan({Worker("a", 0, 0), roomy},
                   {Pending("1", 1), Pending("2", 2), Pending("3", 3), Pending("4", 4)});
  std::vector<std::string> workers;
  for (const Decision& decision : plan) {
    const auto* assigned = std::get_if<PrepareAssigned>(&decision.event);
    workers.push_back(assigned == nullptr ? "-" : assigned->worker);
  }
  EXPECT_THAT(workers, ElementsAre("b", "a", "b", "-"));
}

// Random fleets and queues: no slot twice, none that was not free, whole gangs only, first come
// first served.
TEST(PlacementPolicyTest, EveryPlanKeepsTheRules) {
  SeededRandom random(11);
  for (int round = 0; round < 500; ++round) {
    std::vector<WorkerView> workers;
    std::set<std::string> free;
    for (uint64_t w = 0; w < random.Next() % 5; ++w) {
      WorkerView worker = Worker(absl::StrCat("w", w), 4, 0);
      worker.health =
          random.Next() % 4 == 0 ? WorkerView::Health::kDraining : WorkerView::Health::kReady;
      for (SlotView& slot : worker.slots) {
        slot.free = random.Next() % 2 == 0;
        if (slot.free && worker.health == WorkerView::Health::kReady)
          free.insert(worker.name + "/" + slot.id);
      }
      workers.push_back(worker);
    }
    std::vector<WaitingJob> queue;
    for (uint64_t j = 0; j < 1 + random.Next() % 6; ++j) {
      queue.push_back(Queued(absl::StrCat("j", j), 1 + random.Next() % 6, random.Next() % 3));
    }
    SCOPED_TRACE(absl::StrCat("round ", round));
    std::vector<Decision> plan = Plan(workers, queue);
    ASSERT_EQ(plan.size(), queue.size());
    bool held_up = false;
    for (const Decision& decision : plan) {
      const auto wanted = std::find_if(queue.begin(), queue.end(),
                                       [&](const auto& job) { return job.id == decision.job; });
      std::vector<std::string> places = Places(decision);
      if (places.empty()) {
        const auto& wait = std::get<WaitExplained>(decision.event);
        held_up |= wait.reason == "WAITING_FOR_SLOTS";
        continue;
      }
      EXPECT_FALSE(held_up) << "a later job went first";
      EXPECT_THAT(static_cast<int>(places.size()), Eq(wanted->slots));
      for (const std::string& place : places) EXPECT_EQ(free.erase(place), 1u) << place;
    }
    // The same input gives the same plan.
    std::vector<Decision> again = Plan(workers, queue);
    for (size_t i = 0; i < plan.size(); ++i) {
      EXPECT_EQ(Places(plan[i]), Places(again[i]));
      EXPECT_EQ(Wait(plan[i]), Wait(again[i]));
    }
  }
}

}  // namespace
}  // namespace anneal
