// A cluster of 1,000 nodes and 10,000 jobs on simulated time: the policy alone, with everything
// around it made up.

#include <cstdio>
#include <map>
#include <queue>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/base/random.h"
#include "coordinator/scheduling/placement_policy.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

constexpr int kNodes = 1000;
constexpr int kSlotsPerNode = 8;
constexpr int kJobs = 10000;
constexpr absl::Time kStart = absl::FromUnixSeconds(1'700'000'000);
constexpr absl::Duration kTurn = absl::Minutes(1);

// One job: how long it has to train, and what it has.
struct SimJob {
  QueuePlace place;
  int slots = 1;
  absl::Duration left;
  absl::Time submitted, finished = absl::InfinitePast();
  bool leaving = false;
  int moves = 0;
  std::vector<Placement> placements;
};

class Cluster {
 public:
  explicit Cluster(uint64_t seed) : random_(seed) {
    for (int n = 0; n < kNodes; ++n) {
      WorkerView worker{.name = absl::StrFormat("n%04d", n)};
      for (int s = 0; s < kSlotsPerNode; ++s) {
        worker.slots.push_back(
            {absl::StrFormat("g%d", s), v1::ResourceSpec::ACCELERATOR_GPU, "", ""});
      }
      index_[worker.name] = n;
      workers_.push_back(std::move(worker));
    }
    for (int j = 0; j < kJobs; ++j) {
      SimJob job;
      job.place.id = absl::StrFormat("j%05d", j);
      job.submitted = kStart + absl::Seconds(random_.Next() % 7200);
      job.place.since = job.submitted;
      job.place.priority = static_cast<v1::JobSpec::Priority>(1 + random_.Next() % 3);
      // Many small ones, a few that need a good part of the cluster.
      const uint64_t kind = random_.Next() % 100;
      job.slots = 1 << (kind < 70   ? random_.Next() % 4
                        : kind < 98 ? random_.Next() % 7
                                    : 8 + random_.Next() % 4);
      job.left = absl::Seconds(60 + random_.Next() % 3600);
      jobs_[job.place.id] = job;
    }
  }

  // Until all jobs have ended.
  void Run() {
    for (now_ = kStart; unfinished() > 0; now_ += kTurn) {
      ASSERT_LT(now_, kStart + absl::Hours(240)) << unfinished() << " jobs starve";
      Train();
      const ClusterView view = View();
      std::vector<WaitingJob> queue = Queue();
      const absl::Duration before = Clock::Real().MonotonicNow();
      const std::vector<Decision> plan = policy_.Plan(view, std::move(queue));
      planning_ += Clock::Real().MonotonicNow() - before;
      decisions_ += static_cast<int64_t>(plan.size());
      for (const Decision& decision : plan) Carry(decision);
      CheckOrder();
    }
  }

  int64_t unfinished() const { return kJobs - finished_; }
  absl::Duration longest_wait() const { return longest_wait_; }
  void Print() const {
    std::printf("%lld decisions in %.2f s: %.0f per second; %d moves; all done after %s\n",
                static_cast<long long>(decisions_), absl::ToDoubleSeconds(planning_),
                static_cast<double>(decisions_) / absl::ToDoubleSeconds(planning_), moves_,
                absl::FormatDuration(now_ - kStart).c_str());
  }

 private:
  SlotView& SlotOf(const Placement& placement) {
    for (SlotView& slot : workers_[index_.at(placement.worker)].slots) {
      if (slot.id == placement.slot_id) return slot;
    }
    ADD_FAILURE() << "no slot " << placement.slot_id;
    return workers_[0].slots[0];
  }

  void Leave(SimJob& job) {
    for (const Placement& placement : job.placements) SlotOf(placement).holder.clear();
    job.placements.clear();
    job.leaving = false;
  }

  void Train() {
    for (auto& [id, job] : jobs_) {
      if (job.placements.empty()) continue;
      job.left -= kTurn;
      if (job.left <= absl::ZeroDuration()) {
        job.finished = now_;
        longest_wait_ = std::max(longest_wait_, now_ - job.submitted);
        ++finished_;
      }
      if (job.leaving || job.left <= absl::ZeroDuration()) Leave(job);
    }
  }

  ClusterView View() const {
    ClusterView view{workers_, {}};
    for (const auto& [id, job] : jobs_) {
      if (job.placements.empty()) continue;
      view.running.push_back({.place = job.place,
                              .placements = job.placements,
                              .accelerator = v1::ResourceSpec::ACCELERATOR_GPU,
                              .max_slots = job.slots,
                              .movable = !job.leaving,
                              .leaving = job.leaving});
    }
    return view;
  }

  std::vector<WaitingJob> Queue() const {
    std::vector<WaitingJob> queue;
    for (const auto& [id, job] : jobs_) {
      if (Waits(job)) {
        queue.push_back({.place = job.place,
                         .min_slots = job.slots,
                         .max_slots = job.slots,
                         .accelerator = v1::ResourceSpec::ACCELERATOR_GPU});
      }
    }
    return queue;
  }

  bool Waits(const SimJob& job) const {
    return job.submitted <= now_ && job.placements.empty() && job.finished == absl::InfinitePast();
  }

  void Carry(const Decision& decision) {
    SimJob& job = jobs_.at(decision.job);
    if (std::holds_alternative<MoveRequired>(decision.event)) {
      ASSERT_FALSE(job.placements.empty());
      job.leaving = true;
      ++job.moves;
      ++moves_;
    } else if (const auto* assigned = std::get_if<SlotsAssigned>(&decision.event)) {
      ASSERT_TRUE(Waits(job));
      ASSERT_EQ(static_cast<int>(assigned->placements.size()), job.slots);
      for (const Placement& placement : assigned->placements) {
        ASSERT_EQ(SlotOf(placement).holder, "") << "a slot is used twice";
        SlotOf(placement).holder = job.place.id;
      }
      job.placements = assigned->placements;
    } else {
      ASSERT_FALSE(std::get<WaitExplained>(decision.event).message.empty());
    }
  }

  // The first that waits does so only because even with the slots of all who came after it there
  // are too few, or because they are on their way.
  void CheckOrder() {
    const SimJob* first = nullptr;
    for (const auto& [id, job] : jobs_) {
      if (Waits(job) && (first == nullptr || job.place < first->place)) first = &job;
    }
    if (first == nullptr) return;
    int64_t available = 0;
    for (const WorkerView& worker : workers_) {
      for (const SlotView& slot : worker.slots) available += slot.holder.empty();
    }
    for (const auto& [id, job] : jobs_) {
      if (job.leaving) return;
      if (first->place < job.place) available += static_cast<int64_t>(job.placements.size());
    }
    ASSERT_LT(available, first->slots) << first->place.id << " could have started";
  }

  SeededRandom random_;
  const PlacementPolicy policy_{};
  std::vector<WorkerView> workers_;
  std::map<std::string, int> index_;
  std::map<std::string, SimJob> jobs_;
  absl::Time now_;
  absl::Duration planning_, longest_wait_;
  int64_t decisions_ = 0, finished_ = 0;
  int moves_ = 0;
};

TEST(ClusterTest, TenThousandJobsOnAThousandNodesAllEndAndNoSlotIsUsedTwice) {
  Cluster cluster(20261123);
  cluster.Run();
  cluster.Print();
  EXPECT_EQ(cluster.unfinished(), 0);
}

}  // namespace
}  // namespace anneal
