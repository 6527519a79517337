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
using ::testing::StartsWith;

constexpr auto kCpu = v1::ResourceSpec::ACCELERATOR_CPU;
constexpr auto kGpu = v1::ResourceSpec::ACCELERATOR_GPU;

WorkerView Worker(std::string name, int slots, int free,
                  v1::ResourceSpec::Accelerator accelerator = kGpu) {
  WorkerView worker;
  worker.name = std::move(name);
  worker.free_prepare_slots = 1;
  for (int i = 0; i < slots; ++i)
    worker.slots.push_back({absl::StrCat("s", i), accelerator, "", i < free ? "" : "other"});
  return worker;
}
WaitingJob Queued(std::string id, int slots, int since = 0,
                  v1::ResourceSpec::Accelerator accelerator = kGpu) {
  return {.place = {.since = absl::FromUnixSeconds(since), .id = std::move(id)},
          .min_slots = slots,
          .max_slots = slots,
          .accelerator = accelerator};
}
WaitingJob Pending(std::string id, int since = 0) {
  return {.place = {.since = absl::FromUnixSeconds(since), .id = std::move(id)},
          .needs_prepare = true};
}
// A job that holds the first `slots` slots of a worker that has been made with none free.
RunningJob Running(std::string id, WorkerView& worker, int slots, int since = 0) {
  RunningJob job{.place = {.since = absl::FromUnixSeconds(since), .id = id},
                 .accelerator = kGpu,
                 .max_slots = slots,
                 .movable = true};
  for (SlotView& slot : worker.slots) {
    if (static_cast<int>(job.placements.size()) == slots) break;
    if (slot.holder != "other") continue;
    slot.holder = id;
    job.placements.push_back({worker.name, slot.id, ""});
  }
  return job;
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
std::string Move(const Decision& decision) {
  const auto* move = std::get_if<MoveRequired>(&decision.event);
  return move == nullptr ? "" : decision.job + ": " + move->message;
}
std::vector<Decision> Plan(std::vector<WorkerView> workers, std::vector<WaitingJob> queue,
                           std::vector<RunningJob> running = {}) {
  // Holds what is taken and has no other holder; it does not move.
  running.push_back({.place = {.id = "other"}});
  return PlacementPolicy().Plan({std::move(workers), std::move(running)}, std::move(queue));
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

TEST(PlacementPolicyTest, OthersMayUseWhatTheFirstCannotUseYet) {
  auto plan = Plan({Worker("a", 4, 2)}, {Queued("big", 4, 1), Queued("small", 1, 2),
                                         Queued("large", 2, 3), Queued("cpu", 1, 3, kCpu)});
  EXPECT_EQ(Wait(plan[0]), "needs 4 GPU slots, 2 free");
  EXPECT_THAT(Places(plan[1]), ElementsAre("a/s0"));
  EXPECT_EQ(Wait(plan[2]), "needs 1 CPU slot, the fleet has 0");
  EXPECT_EQ(Wait(plan[3]), "needs 2 GPU slots, other jobs come before it");
}

TEST(PlacementPolicyTest, ABackfilledJobLeavesWhenTheFirstCanStart) {
  WorkerView worker = Worker("a", 4, 1);
  const RunningJob filler = Running("filler", worker, 3, /*since=*/5);
  auto plan = Plan({worker}, {Queued("big", 4, 1), Queued("small", 1, 6)}, {filler});
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(Move(plan[0]),
            "filler: jobs/big goes first: stops with a checkpoint and waits for slots");
  EXPECT_EQ(Wait(plan[1]), "needs 4 GPU slots, 1 free, others make room");
  EXPECT_EQ(Wait(plan[2]), "needs 1 GPU slot, other jobs come before it") << "free slots are kept";
  RunningJob leaving = filler;
  leaving.movable = false;
  leaving.leaving = true;
  plan = Plan({worker}, {Queued("big", 4, 1), Queued("small", 1, 6)}, {leaving});
  EXPECT_EQ(plan.size(), 2u) << "nobody else has to go";
  EXPECT_EQ(Wait(plan[1]), "needs 1 GPU slot, other jobs come before it");
}

TEST(PlacementPolicyTest, WhoHasMadeRoomDoesNotTakeItBack) {
  WorkerView worker = Worker("a", 2, 0);
  // Moved out for "big"; its old processes are not gone yet.
  worker.slots[0].holder = worker.slots[1].holder = "moved";
  auto plan = Plan({worker}, {Queued("big", 2, 1), Queued("moved", 2, 5)});
  EXPECT_EQ(Wait(plan[0]), "needs 2 GPU slots, 0 free, others make room");
  EXPECT_EQ(Wait(plan[1]), "needs 2 GPU slots, other jobs come before it");
  EXPECT_EQ(Places(Plan({worker}, {Queued("moved", 2, 5)})[0]).size(), 2u) << "but if nobody waits";
}

TEST(PlacementPolicyTest, NobodyLeavesForWhoCameLater) {
  WorkerView worker = Worker("a", 4, 0);
  const RunningJob running = Running("r", worker, 4, /*since=*/1);
  auto plan = Plan({worker}, {Queued("j", 4, 2)}, {running});
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(Wait(plan[0]), "needs 4 GPU slots, 0 free");
}

TEST(PlacementPolicyTest, HigherPriorityTakesTheSlotsOfTheLeast) {
  WorkerView a = Worker("a", 4, 0), b = Worker("b", 4, 0);
  RunningJob normal = Running("normal", a, 4, 1), low = Running("low", b, 2, 1),
             lower = Running("lower", b, 2, 2);
  low.place.priority = lower.place.priority = v1::JobSpec::PRIORITY_LOW;
  WaitingJob high = Queued("high", 2, 9);
  high.place.priority = v1::JobSpec::PRIORITY_HIGH;
  WaitingJob waiting = Queued("w", 2, 3);
  auto plan = Plan({a, b}, {waiting, high}, {normal, low, lower});
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_THAT(Move(plan[0]), StartsWith("lower: jobs/high goes first"));
  EXPECT_EQ(plan[1].job, "high");
  // A large one makes the small ones before it in the list needless.
  high.min_slots = high.max_slots = 4;
  RunningJob large = low;
  large.placements.insert(large.placements.end(), lower.placements.begin(), lower.placements.end());
  lower.placements.resize(1);
  plan = Plan({a, b}, {high}, {normal, large, lower});
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_THAT(Move(plan[0]), StartsWith("low: "));
}

TEST(PlacementPolicyTest, ARecoveringJobComesFirstAndKeepsItsSlots) {
  WorkerView worker = Worker("a", 4, 2);
  worker.slots[2].holder = "back";  // an old process of its own
  WaitingJob back = Queued("back", 2, 9);
  back.recovering = true;
  back.kept = {{"a", "s1", ""}, {"a", "s2", ""}};
  auto plan = Plan({worker}, {Queued("first", 2, 1), back});
  EXPECT_EQ(plan[0].job, "back");
  EXPECT_THAT(Places(plan[0]), ElementsAre("a/s0", "a/s1"));
  back.min_slots = back.max_slots = 4;
  plan = Plan({worker}, {Queued("first", 2, 1), Queued("small", 1, 2), back});
  EXPECT_EQ(Wait(plan[0]), "needs 4 GPU slots, 3 free");
  EXPECT_EQ(Wait(plan[1]), "needs 2 GPU slots, other jobs come before it");
  EXPECT_THAT(Places(plan[2]), ElementsAre("a/s0")) << "but not the slot that is kept";
}

TEST(PlacementPolicyTest, RecoveringJobsTakeNothingFromEachOther) {
  WorkerView worker = Worker("a", 4, 4);
  WaitingJob first = Queued("first", 2, 1), second = Queued("second", 2, 2);
  first.recovering = second.recovering = true;
  first.kept = {{"a", "s2", ""}, {"lost", "s0", ""}};
  second.kept = {{"a", "s0", ""}, {"a", "s1", ""}};
  auto plan = Plan({worker}, {first, second});
  EXPECT_THAT(Places(plan[0]), ElementsAre("a/s2", "a/s3"));
  EXPECT_THAT(Places(plan[1]), ElementsAre("a/s0", "a/s1"));
}

TEST(PlacementPolicyTest, ElasticJobsTakeWhatIsThereAndGrowWhenNobodyWaits) {
  WaitingJob elastic = Queued("e", 2, 1);
  elastic.max_slots = 8;
  EXPECT_EQ(Places(Plan({Worker("a", 8, 7)}, {elastic})[0]).size(), 4u);
  WorkerView worker = Worker("a", 8, 6);
  RunningJob running = Running("e", worker, 2);
  running.max_slots = 8;
  EXPECT_TRUE(Plan({worker}, {}, {running}).empty()) << "it has only just started";
  running.may_grow = true;
  auto plan = Plan({worker}, {}, {running});
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(Move(plan[0]), "e: stops with a checkpoint to go on with 8 GPU slots");
  EXPECT_EQ(Plan({worker}, {Queued("w", 8, 1)}, {running}).size(), 1u) << "somebody waits";
}

TEST(PlacementPolicyTest, AWholeGangLeavesADrainingWorker) {
  WorkerView a = Worker("a", 2, 0), b = Worker("b", 2, 0);
  RunningJob job = Running("j", a, 2);
  job.placements.push_back({"b", "s0", ""});
  b.health = WorkerView::Health::kDraining;
  auto plan = Plan({a, b}, {}, {job});
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_THAT(Move(plan[0]), StartsWith("j: worker b drains"));
}

TEST(PlacementPolicyTest, ExcludedWorkersAreForJobsThatFitNowhereElse) {
  WorkerView bad = Worker("a", 4, 4);
  bad.excluded = true;
  auto plan = Plan({bad, Worker("b", 2, 2)}, {Queued("small", 2, 1), Queued("large", 4, 2)});
  EXPECT_THAT(Places(plan[0]), ElementsAre("b/s0", "b/s1"));
  EXPECT_THAT(Places(plan[1]), ElementsAre("a/s0", "a/s1", "a/s2", "a/s3"));
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

// Random fleets and queues: no slot twice, none that was not free, whole gangs only, the same plan
// for the same input.
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
        if (random.Next() % 2 == 0) slot.holder.clear();
        if (slot.holder.empty() && worker.health == WorkerView::Health::kReady)
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
    for (const Decision& decision : plan) {
      const auto wanted = std::find_if(queue.begin(), queue.end(), [&](const auto& job) {
        return job.place.id == decision.job;
      });
      std::vector<std::string> places = Places(decision);
      EXPECT_EQ(places.empty(), !Wait(decision).empty());
      if (places.empty()) continue;
      EXPECT_THAT(static_cast<int>(places.size()), Eq(wanted->min_slots));
      for (const std::string& place : places) EXPECT_EQ(free.erase(place), 1u) << place;
    }
    std::vector<Decision> again = Plan(workers, queue);
    for (size_t i = 0; i < plan.size(); ++i) {
      EXPECT_EQ(Places(plan[i]), Places(again[i]));
      EXPECT_EQ(Wait(plan[i]), Wait(again[i]));
    }
  }
}

}  // namespace
}  // namespace anneal
