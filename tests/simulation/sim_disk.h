#pragma once
// The catalog on a simulated disk, and the invariants that every commit must keep.

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/start_number.h"
#include "coordinator/catalog/catalog_store.h"
#include "coordinator/collection/output_publisher.h"
#include "coordinator/lifecycle/states.h"
#include "gtest/gtest.h"
#include "tests/simulation/sim_world.h"

namespace anneal::simulation {

// Outlives coordinators. A commit is there as a whole or not at all, as SQLite's are.
class SimDisk {
 public:
  explicit SimDisk(World& world) : world_(world) {}

  // While it is full every commit fails.
  void set_full(bool full) { full_ = full; }

  absl::Status Commit(const CatalogChange& change) {
    if (full_) return absl::ResourceExhaustedError("no space left on the disk (simulated)");
    for (const auto& [job, event] : change.events) CheckEvent(job, event);
    for (const auto& record : change.jobs) CheckRecord(*record);
    for (const auto& record : change.jobs) CheckHeld(*record);
    for (const auto& record : change.jobs) jobs_[record->id()] = record->SerializeAsString();
    for (const internal::WorkerRecord& worker : change.workers)
      workers_[worker.name()] = worker.SerializeAsString();
    for (const std::string& id : change.deleted_jobs) jobs_.erase(id);
    CheckSlots();
    for (const auto& [key, seconds] : change.usage) Book(key, seconds);
    CheckBooks();
    return absl::OkStatus();
  }

  int64_t NextEpoch(absl::Time now) { return epoch_ = NextStartNumber(epoch_, now); }
  std::vector<internal::JobRecord> jobs() const { return Parse<internal::JobRecord>(jobs_); }
  std::vector<internal::WorkerRecord> workers() const {
    return Parse<internal::WorkerRecord>(workers_);
  }
  internal::JobRecord job(const std::string& id) const {
    internal::JobRecord record;
    EXPECT_TRUE(jobs_.count(id) > 0 && record.ParseFromString(jobs_.at(id))) << "lost: " << id;
    return record;
  }

 private:
  template <typename Record>
  static std::vector<Record> Parse(const std::map<std::string, std::string>& rows) {
    std::vector<Record> records;
    for (const auto& [key, bytes] : rows)
      EXPECT_TRUE(records.emplace_back().ParseFromString(bytes));
    return records;
  }

  // Events are gapless, and states change along legal ways only.
  void CheckEvent(const std::string& job, const v1::JobEvent& event) {
    History& history = histories_[job];
    EXPECT_EQ(event.sequence(), ++history.sequence) << job;
    world_.Trace(absl::StrCat(job, " ", event.message()));
    if (!event.has_state_change()) return;
    const v1::JobState from = event.state_change().from(), to = event.state_change().to();
    EXPECT_EQ(from, history.state) << job;
    EXPECT_TRUE(from == v1::JOB_STATE_UNSPECIFIED || IsLegalTransition(from, to))
        << StateName(from) << " -> " << StateName(to);
    history.state = to;
  }

  void CheckRecord(const internal::JobRecord& record) {
    const History& history = histories_[record.id()];
    EXPECT_EQ(record.job().state(), history.state) << record.id();
    EXPECT_EQ(record.last_event_sequence(), history.sequence) << record.id();
    // One generation commits: the newest, and never one before a newer has.
    int64_t newest = record.train().generation();
    for (const internal::CheckpointRecord& checkpoint : record.checkpoints()) {
      EXPECT_LE(checkpoint.generation(), newest) << record.id();
      newest = checkpoint.generation();
    }
    EXPECT_EQ(record.job().generation(), record.train().generation());
    const auto before = jobs_.find(record.id());
    if (before == jobs_.end()) return;
    internal::JobRecord old;
    EXPECT_TRUE(old.ParseFromString(before->second));
    EXPECT_GE(record.train().generation(), old.train().generation());
    if (IsTerminal(old.job().state())) {
      EXPECT_EQ(record.job().state(), old.job().state()) << "terminal states never change";
    }
  }

  // One slot serves one attempt.
  void CheckSlots() const {
    std::map<std::string, std::string> users;
    for (const internal::JobRecord& record : jobs()) {
      if (!HasTrainers(record.job().state())) continue;
      for (const internal::RankRecord& rank : record.train().ranks()) {
        if (rank.ended()) continue;
        const std::string slot = absl::StrCat(rank.worker(), "/", rank.slot_id());
        const auto [user, first] = users.emplace(slot, record.id());
        EXPECT_TRUE(first) << slot << " serves " << user->second << " and " << record.id();
      }
    }
  }

  // All the time that a job's slots were held is counted, and no more: from commit to commit they
  // are what the record on disk says.
  void CheckHeld(const internal::JobRecord& record) {
    Holding& holding = holdings_[record.id()];
    const absl::Time now = world_.clock().TimeNow();
    holding.slot_seconds += absl::ToDoubleSeconds(now - holding.since) * holding.slots;
    holding.since = now;
    holding.slots = 0;
    const v1::JobState state = record.job().state();
    for (const internal::RankRecord& rank : record.train().ranks()) {
      holding.slots += HasTrainers(state) || (state == v1::JOB_STATE_RECOVERING && !rank.lost()) ||
                       (state == v1::JOB_STATE_CANCELLING && !rank.ended());
    }
    const v1::JobUsage& usage = record.job().usage();
    EXPECT_NEAR(usage.slot_seconds(), holding.slot_seconds, kRounding) << record.id();
    const double wasted = usage.redone_slot_seconds() + usage.lost_slot_seconds();
    const double useful = usage.slot_seconds() - wasted - usage.idle_slot_seconds();
    EXPECT_GE(useful, -kRounding) << record.id();
    if (state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED) {
      EXPECT_NEAR(useful, 0, kRounding) << record.id();
    }
  }

  static void Add(const SlotTime& more, SlotTime* sum) {
    sum->useful += more.useful;
    sum->redone += more.redone;
    sum->lost += more.lost;
    sum->idle += more.idle;
  }
  void Book(const UsageKey& key, const UsageSeconds& seconds) {
    SlotTime& row = booked_[key];
    Add(seconds.held, &row);
    EXPECT_GE(row.useful, -kRounding);
    EXPECT_GE(seconds.held.redone, 0);
    EXPECT_GE(seconds.held.lost, 0);
    EXPECT_GE(seconds.held.idle, 0);
    EXPECT_GE(seconds.free, 0);
    EXPECT_EQ(key.project.empty(), seconds.free > 0);
  }
  // What is booked is what the jobs together show: nothing twice, nothing missing.
  void CheckBooks() const {
    SlotTime booked, shown;
    for (const auto& [key, row] : booked_) Add(row, &booked);
    for (const internal::JobRecord& record : jobs()) {
      const v1::JobUsage& usage = record.job().usage();
      SlotTime job{.redone = usage.redone_slot_seconds(),
                   .lost = usage.lost_slot_seconds(),
                   .idle = usage.idle_slot_seconds()};
      job.useful = usage.slot_seconds() - job.redone - job.lost - job.idle;
      Add(job, &shown);
    }
    EXPECT_NEAR(booked.useful, shown.useful, kRounding);
    EXPECT_NEAR(booked.redone, shown.redone, kRounding);
    EXPECT_NEAR(booked.lost, shown.lost, kRounding);
    EXPECT_NEAR(booked.idle, shown.idle, kRounding);
  }

  static constexpr double kRounding = 1e-3;  // of times on disk, to the microsecond

  struct Holding {
    absl::Time since;
    int slots = 0;
    double slot_seconds = 0;
  };
  struct History {
    int64_t sequence = 0;
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  };
  World& world_;
  bool full_ = false;
  int64_t epoch_ = 0;
  std::map<std::string, std::string> jobs_, workers_;
  std::map<std::string, History> histories_;
  std::map<std::string, Holding> holdings_;
  std::map<UsageKey, SlotTime> booked_;
};

// The outputs in the storage root, which outlives coordinators too.
class SimOutputs : public OutputPublisher {
 public:
  SimOutputs(World& world, const SimDisk& disk) : world_(world), disk_(disk) {}

  absl::StatusOr<int64_t> Publish(const std::string& job, int64_t generation,
                                  const v1::JobResult&) override {
    EXPECT_EQ(generation, disk_.job(job).train().generation()) << job;
    if (world_.Chance(0.1)) return absl::UnavailableError("the storage root is away (simulated)");
    published_[job] = generation;
    return 100;
  }
  // No catalog of the simulation is ever restored.
  std::map<std::string, int64_t> FindGenerations(const std::set<std::string>&) override {
    return {};
  }
  // 0: nothing is there.
  int64_t GenerationOf(const std::string& job) const {
    const auto found = published_.find(job);
    return found == published_.end() ? 0 : found->second;
  }

 private:
  World& world_;
  const SimDisk& disk_;
  std::map<std::string, int64_t> published_;
};

// One coordinator's door to the disk.
class SimCatalogStore : public CatalogStore {
 public:
  explicit SimCatalogStore(SimDisk& disk) : disk_(disk) {}
  absl::StatusOr<int64_t> NextEpoch(absl::Time now) override { return disk_.NextEpoch(now); }
  absl::StatusOr<std::vector<internal::JobRecord>> LoadJobs() override { return disk_.jobs(); }
  absl::StatusOr<std::vector<internal::WorkerRecord>> LoadWorkers() override {
    return disk_.workers();
  }
  absl::StatusOr<std::string> FindMissingResource(const internal::JobRecord&) override {
    return std::string();
  }
  void Release() override {}
  absl::Status Commit(const CatalogChange& change) override { return disk_.Commit(change); }

 private:
  SimDisk& disk_;
};

}  // namespace anneal::simulation
