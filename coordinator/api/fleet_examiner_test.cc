#include "coordinator/api/fleet_examiner.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/base/version.h"
#include "common/host/check.h"
#include "common/host/storage_marks.h"
#include "coordinator/lifecycle/proto_time.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using internal::Examination;
using internal::ExaminationResult;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::StatusIs;

// A fleet whose workers do at once what is desired, as well as they are.
class FakeFleet : public FleetInbox {
 public:
  struct Worker {
    absl::Duration clock_ahead = absl::ZeroDuration();
    bool answers = true;
    int does_steps = 1000;           // then it stands still
    bool shows_old_content = false;  // says that it has changed its mark, and nobody sees it
    bool has_storage = true;         // otherwise it leaves no mark and looks for none
    std::string storage_root;        // where its marks lie
    double bytes_per_second = 1e9;
    std::string link_error;
    std::vector<v1::Check> checks = {};
  };

  void WorkerSynced(std::shared_ptr<FleetSession>, internal::Observed) override {}
  void SessionClosed(std::shared_ptr<FleetSession>) override {}
  void SetDrained(const std::string&, bool, std::string, WorkerReply) override {}
  void Examine(std::map<std::string, Examination> wanted, ExaminationSink sink) override {
    if (during) during();
    wanted_ = std::move(wanted);
    if (wanted_.empty()) marks_.clear();
    rounds_.emplace_back();
    for (const auto& [name, examination] : wanted_) {
      const Worker& worker = workers.at(name);
      if (!worker.answers) continue;
      ExaminationResult& result = results_[name];
      if (result.token() != examination.token()) result.Clear();
      result.set_token(examination.token());
      const google::protobuf::Timestamp now =
          TimestampOf(Clock::Real().TimeNow() + worker.clock_ahead);
      *result.mutable_hear_time() = *result.mutable_send_time() = now;
      if (examination.step() <= worker.does_steps) {
        Do(name, worker, examination, result);
        result.set_step(examination.step());
      }
      sink(name, result);
    }
    if (rounds_.back().empty()) rounds_.pop_back();
  }

  const std::map<std::string, Examination>& wanted() const { return wanted_; }
  // Pairs that were measured at a time.
  const std::vector<std::set<std::pair<std::string, std::string>>>& rounds() const {
    return rounds_;
  }
  std::map<std::string, Worker> workers;
  std::function<void()> during;

 private:
  void Do(const std::string& name, const Worker& worker, const Examination& examination,
          ExaminationResult& result) {
    FileSystem& files = FileSystem::Posix();
    const std::string& token = examination.token();
    const std::string folder = absl::StrCat(worker.storage_root, "/tmp/doctor-", token);
    const std::vector<std::string> marks(examination.marks().begin(), examination.marks().end());
    if (examination.work() == Examination::WORK_LOOK_AT_MACHINE) {
      result.set_listen_address(absl::StrCat(name, ":40000"));
      for (const v1::Check& check : worker.checks) *result.add_checks() = check;
      if (!worker.has_storage) return;
      auto mark = StorageMark::Leave(files, folder, name, token);
      result.set_has_left_mark(mark.ok());
      if (mark.ok()) marks_[name] = *std::move(mark);
    } else if (!worker.has_storage && examination.work() != Examination::WORK_MEASURE_LINKS) {
      return;
    } else if (examination.work() == Examination::WORK_LOOK_FOR_MARKS) {
      MarksSeen seen = CheckMarks(files, folder, marks, token, absl::ZeroDuration(), Clock::Real());
      *result.add_checks() = seen.check;
      seen_[name] = seen.names;
    } else if (examination.work() == Examination::WORK_CHANGE_MARKS) {
      result.set_has_changed_mark(worker.shows_old_content || marks_.at(name)->Change().ok());
    } else if (examination.work() == Examination::WORK_LOOK_FOR_CHANGES) {
      std::vector<std::string> names;
      for (const std::string& other : seen_[name]) {
        if (std::count(marks.begin(), marks.end(), other) > 0) names.push_back(other);
      }
      *result.add_checks() =
          CheckChanges(files, folder, names, token, "", absl::ZeroDuration(), Clock::Real());
    } else if (examination.work() == Examination::WORK_MEASURE_LINKS) {
      for (const Examination::Peer& peer : examination.peers()) {
        EXPECT_EQ(peer.address(), peer.worker() + ":40000");
        rounds_.back().insert({name, peer.worker()});
        ExaminationResult::Link& link = *result.add_links();
        link.set_worker(peer.worker());
        link.set_bytes_per_second(worker.bytes_per_second);
        link.set_back_bytes_per_second(worker.bytes_per_second);
        link.set_error(worker.link_error);
      }
    } else {
      ADD_FAILURE() << examination.ShortDebugString();
    }
  }

  std::map<std::string, Examination> wanted_;
  std::map<std::string, ExaminationResult> results_;
  std::map<std::string, std::unique_ptr<StorageMark>> marks_;
  std::map<std::string, std::vector<std::string>> seen_;
  std::vector<std::set<std::pair<std::string, std::string>>> rounds_;
};

class FleetExaminerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ANNEAL_ASSERT_OK_AND_ASSIGN(
        storage_, StorageRoot::Open(disk_.path(), FileSystem::Posix(), Clock::Real(), random_));
  }
  FakeFleet::Worker& Add(const std::string& name,
                         v1::Worker::State state = v1::Worker::STATE_READY) {
    v1::Worker& worker = roster_workers_.emplace_back();
    worker.set_name("workers/" + name);
    worker.set_state(state);
    worker.set_version(std::string(Version()));
    roster_.Publish(roster_workers_);
    fleet_.workers[name].storage_root = disk_.path();
    return fleet_.workers[name];
  }
  absl::StatusOr<v1::CheckFleetResponse> Examine(bool cancelled = false) {
    FleetExaminer examiner({roster_, fleet_, *storage_, Clock::Real(), random_},
                           {.answers = absl::Milliseconds(300),
                            .links = absl::Milliseconds(300),
                            .marks = absl::Milliseconds(300)});
    v1::CheckFleetRequest request;
    request.set_all_pairs(all_pairs_);
    return examiner.Examine(request, [cancelled] { return cancelled; });
  }
  // "machine name verdict: measured" of each check that is not OK.
  std::vector<std::string> NotOk() {
    std::vector<std::string> found;
    absl::StatusOr<v1::CheckFleetResponse> response = Examine();
    EXPECT_THAT(response, testing::IsOk());
    for (const v1::Check& check : response->checks()) {
      if (check.verdict() == v1::Check::VERDICT_OK) continue;
      EXPECT_NE(check.advice(), "");
      found.push_back(absl::StrCat(check.machine(), " ", check.name(), " ",
                                   v1::Check::Verdict_Name(check.verdict()), ": ",
                                   check.measured()));
    }
    return found;
  }

  testing::TempDir disk_, other_disk_;
  SeededRandom random_{1};
  std::unique_ptr<StorageRoot> storage_;
  FleetRoster roster_;
  std::vector<v1::Worker> roster_workers_;
  FakeFleet fleet_;
  bool all_pairs_ = false;
};

TEST_F(FleetExaminerTest, AWholeFleetIsWell) {
  Add("w1");
  Add("w2");
  Add("w3");
  EXPECT_THAT(NotOk(), IsEmpty());
  ANNEAL_ASSERT_OK_AND_ASSIGN(const v1::CheckFleetResponse response, Examine());
  std::vector<std::string> names;
  for (const v1::Check& check : response.checks())
    names.push_back(absl::StrCat(check.machine(), " ", check.name()));
  for (const char* name :
       {"coordinator storage", "coordinator shared storage", "workers/w1 answer",
        "workers/w1 version", "workers/w1 clock", "workers/w1 shared storage",
        "workers/w1 shared storage changes", "coordinator shared storage changes",
        "workers/w1 link to w2", "workers/w1 link to w3", "workers/w2 link to w3"}) {
    EXPECT_THAT(names, Contains(name));
  }
  EXPECT_THAT(fleet_.wanted(), IsEmpty()) << "afterwards nothing is desired any more";
  EXPECT_THAT(*FileSystem::Posix().List(disk_.path() + "/tmp"), Not(Contains(HasSubstr("doctor"))));
}

TEST_F(FleetExaminerTest, WithoutWorkersTheCoordinatorLooksAtItself) {
  EXPECT_THAT(NotOk(), IsEmpty());
}

TEST_F(FleetExaminerTest, EachFaultIsNamedWhereItIs) {
  Add("w1").clock_ahead = absl::Minutes(10);
  Add("w2").storage_root = other_disk_.path();
  Add("w3", v1::Worker::STATE_LOST);
  Add("w4").checks = {FailedCheck("gpu driver", "version mismatch", "restart the machine")};
  Add("w5", v1::Worker::STATE_EXCLUDED);
  roster_workers_[3].set_version("0.0.1");
  roster_.Publish(roster_workers_);
  const std::vector<std::string> found = NotOk();
  for (const auto& expected :
       {AllOf(HasSubstr("workers/w1 clock VERDICT_FAILED"), HasSubstr("ahead")),
        AllOf(HasSubstr("workers/w2 shared storage VERDICT_FAILED"),
              HasSubstr("COORDINATOR, w1, w4, w5")),
        AllOf(HasSubstr("coordinator shared storage VERDICT_FAILED"), HasSubstr("written by w2")),
        AllOf(HasSubstr("workers/w3 answer VERDICT_FAILED"), HasSubstr("LOST")),
        AllOf(HasSubstr("workers/w4 gpu driver VERDICT_FAILED"), HasSubstr("mismatch")),
        AllOf(HasSubstr("workers/w4 version VERDICT_WARNING"), HasSubstr("0.0.1")),
        AllOf(HasSubstr("workers/w5 answer VERDICT_WARNING"), HasSubstr("EXCLUDED"))}) {
    EXPECT_THAT(found, Contains(expected));
  }
  EXPECT_THAT(found, Not(Contains(HasSubstr("w5 clock"))));
}

TEST_F(FleetExaminerTest, LinksAreJudgedAgainstEachOther) {
  Add("w1");
  Add("w2");
  Add("w3").bytes_per_second = 1e7;
  Add("w4").link_error = "unused: the last measures no pair";
  fleet_.workers["w2"].link_error = "cannot connect";
  const std::vector<std::string> found = NotOk();
  EXPECT_THAT(found,
              Contains(HasSubstr("workers/w3 link to w4 VERDICT_WARNING: w3 to w4 10 MB/s")));
  EXPECT_THAT(found, Contains("workers/w2 link to w3 VERDICT_FAILED: cannot connect"));
  EXPECT_THAT(found, Contains("workers/w2 link to w4 VERDICT_FAILED: cannot connect"));
  EXPECT_EQ(found.size(), 3u);
}

TEST_F(FleetExaminerTest, WhoDoesNotAnswerIsNotWaitedForLong) {
  Add("w1");
  Add("w2").answers = false;
  Add("w3").does_steps = 2;
  const std::vector<std::string> found = NotOk();
  EXPECT_THAT(found, ElementsAre(HasSubstr("workers/w2 answer VERDICT_FAILED: no answer in time"),
                                 HasSubstr("workers/w3 answer VERDICT_FAILED: has begun")));
}

TEST_F(FleetExaminerTest, PairsAreMeasuredInRoundsThatDisturbNobody) {
  for (const char* name : {"w1", "w2", "w3", "w4"}) Add(name);
  EXPECT_THAT(NotOk(), IsEmpty());
  ASSERT_EQ(fleet_.rounds().size(), 3u);
  std::set<std::pair<std::string, std::string>> pairs;
  for (const auto& round : fleet_.rounds()) {
    EXPECT_EQ(round.size(), 2u);
    pairs.insert(round.begin(), round.end());
  }
  EXPECT_EQ(pairs.size(), 6u);
}

// No job has slots of both kinds, and pools of different kinds may be kept apart.
TEST_F(FleetExaminerTest, WorkersWithoutAKindOfSlotInCommonAreNoPair) {
  const auto add = [this](const std::string& name,
                          const std::vector<v1::ResourceSpec::Accelerator>& slots) {
    Add(name);
    for (const auto accelerator : slots)
      roster_workers_.back().add_slots()->set_accelerator(accelerator);
    roster_.Publish(roster_workers_);
  };
  const auto measured = [this] {
    const size_t before = fleet_.rounds().size();
    EXPECT_THAT(NotOk(), IsEmpty());
    std::set<std::pair<std::string, std::string>> pairs;
    for (size_t i = before; i < fleet_.rounds().size(); ++i)
      pairs.insert(fleet_.rounds()[i].begin(), fleet_.rounds()[i].end());
    return pairs;
  };
  const auto cpu = v1::ResourceSpec::ACCELERATOR_CPU, gpu = v1::ResourceSpec::ACCELERATOR_GPU;
  for (const char* name : {"c1", "c2"}) add(name, {cpu, cpu});
  for (const char* name : {"g1", "g2"}) add(name, {gpu});
  const auto pairs = measured();
  EXPECT_EQ(pairs.size(), 2u);
  for (const auto& [a, b] : pairs) EXPECT_EQ(a[0], b[0]);
  add("both", {cpu, gpu});
  EXPECT_EQ(measured().size(), 10u) << "a job of each kind may have slots of it";
}

TEST_F(FleetExaminerTest, AllPairsOfManyOnlyWhenAsked) {
  for (int i = 0; i < 34; ++i) Add(absl::StrCat("w", i)).has_storage = false;  // takes its time
  const auto measured = [this] {
    const size_t before = fleet_.rounds().size();
    EXPECT_THAT(NotOk(), IsEmpty());
    size_t pairs = 0;
    for (size_t i = before; i < fleet_.rounds().size(); ++i) pairs += fleet_.rounds()[i].size();
    return pairs;
  };
  EXPECT_EQ(measured(), 2 * 34u);
  all_pairs_ = true;
  EXPECT_EQ(measured(), 34u * 33 / 2);
}

TEST_F(FleetExaminerTest, WhatAFileSystemGoesOnShowingIsNamed) {
  Add("w1");
  Add("w2").shows_old_content = true;
  const std::vector<std::string> found = NotOk();
  EXPECT_THAT(
      found,
      Contains(AllOf(HasSubstr("coordinator shared storage changes VERDICT_FAILED: after 300ms"),
                     HasSubstr("renamed over not yet of w2"))));
  EXPECT_THAT(found, Contains(HasSubstr("workers/w1 shared storage changes VERDICT_FAILED")));
  EXPECT_EQ(found.size(), 2u);
}

TEST_F(FleetExaminerTest, WhoDropsOutBetweenRoundsIsNotMeasuredWith) {
  for (const char* name : {"w1", "w2", "w3", "w4"}) Add(name);
  fleet_.workers["w2"].does_steps = 5;  // the first round
  EXPECT_THAT(NotOk(), ElementsAre(HasSubstr("workers/w2 answer VERDICT_FAILED: has begun")));
  size_t with_w2 = 0;
  for (const auto& round : fleet_.rounds()) {
    for (const auto& [a, b] : round) with_w2 += a == "w2" || b == "w2";
  }
  EXPECT_LE(with_w2, 2u) << "the round that it has done, and the one in which it stood still";
}

TEST_F(FleetExaminerTest, OneAtATimeAndOnlyWhileSomebodyWaits) {
  Add("w1").answers = false;
  EXPECT_THAT(Examine(/*cancelled=*/true), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(fleet_.wanted(), IsEmpty());
  FleetExaminer examiner({roster_, fleet_, *storage_, Clock::Real(), random_},
                         {.answers = absl::Milliseconds(1),
                          .links = absl::Milliseconds(1),
                          .marks = absl::Milliseconds(1)});
  absl::Status second;
  fleet_.during = [&] { second = examiner.Examine({}, [] { return false; }).status(); };
  EXPECT_THAT(examiner.Examine({}, [] { return false; }), testing::IsOk());
  EXPECT_THAT(second, StatusIs(absl::StatusCode::kAborted));
}

}  // namespace
}  // namespace anneal
