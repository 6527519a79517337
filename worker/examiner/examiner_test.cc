#include "worker/examiner/examiner.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/temp_dir.h"
#include "gmock/gmock.h"
#include "worker/examiner/testing/fake_trainer.h"

namespace anneal {
namespace {

using internal::Examination;
using internal::ExaminationResult;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kGpu = v1::ResourceSpec::ACCELERATOR_GPU;

// One worker's examiner, and what a daemon and a coordinator do with it.
class Worker {
 public:
  Worker(const std::string& name, const std::string& storage_root,
         const std::string& data_address = "127.0.0.1", std::vector<TrainerSlot> slots = {})
      : examiner_(
            {.data_address = data_address,
             .storage_root = storage_root,
             .worker = name,
             .slots = std::move(slots),
             .mark_patience = absl::Milliseconds(300)},
            FileSystem::Posix(), [this] { Notify(); }, Clock::Real()) {}

  Examiner* operator->() { return &examiner_; }

  // Begins a step, and does not wait for its end.
  void Want(Examination::Work work, const std::vector<std::string>& marks = {},
            const std::vector<std::pair<std::string, std::string>>& peers = {}) {
    wanted_.set_step(wanted_.step() + 1);
    wanted_.set_work(work);
    *wanted_.mutable_marks() = {marks.begin(), marks.end()};
    wanted_.clear_peers();
    for (const auto& [worker, address] : peers) {
      wanted_.add_peers()->set_worker(worker);
      wanted_.mutable_peers()->rbegin()->set_address(address);
    }
    examiner_.Update(&wanted_);
  }
  // Its end.
  ExaminationResult Await() {
    absl::MutexLock lock(&mu_);
    ExaminationResult result;
    auto is_there = [&] {
      const std::optional<ExaminationResult> now = examiner_.result();
      if (now.has_value()) result = *now;
      return result.token() == wanted_.token() && result.step() >= wanted_.step();
    };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&is_there), absl::Seconds(60)));
    return result;
  }
  ExaminationResult Do(Examination::Work work, const std::vector<std::string>& marks = {},
                       const std::vector<std::pair<std::string, std::string>>& peers = {}) {
    Want(work, marks, peers);
    return Await();
  }
  void BeginAnother(char digit) {
    wanted_.Clear();
    wanted_.set_token(std::string(32, digit));
  }
  const std::string& token() const { return wanted_.token(); }

 private:
  // Makes Await look again.
  void Notify() { absl::MutexLock lock(&mu_); }

  Examination wanted_ = [] {
    Examination wanted;
    wanted.set_token(std::string(32, 'a'));
    return wanted;
  }();
  absl::Mutex mu_;
  Examiner examiner_;  // last: its thread uses the members above
};

std::vector<std::string> NotOk(const ExaminationResult& result) {
  std::vector<std::string> names;
  for (const v1::Check& check : result.checks()) {
    if (check.verdict() != v1::Check::VERDICT_OK)
      names.push_back(absl::StrCat(check.name(), ": ", check.measured()));
  }
  return names;
}

// What a check has found, or that it is not there.
std::string Found(const ExaminationResult& result, const std::string& name) {
  for (const v1::Check& check : result.checks()) {
    if (check.name() == name)
      return absl::StrCat(v1::Check::Verdict_Name(check.verdict()), ": ", check.measured());
  }
  return "no such check";
}

class ExaminerTest : public ::testing::Test {
 protected:
  testing::TempDir storage_;
  const std::string folder_ = storage_.path() + "/tmp/doctor-" + std::string(32, 'a');
};

TEST_F(ExaminerTest, TwoWorkersLookEachOtherOver) {
  const testing::FakeTrainer trainer(testing::GoodTrainer());
  Worker w1("w1", storage_.path(), "127.0.0.1", {trainer.Slot()});
  Worker w2("w2", storage_.path(), "127.0.0.1", {trainer.Slot()});
  EXPECT_FALSE(w1->result().has_value());
  for (Worker* worker : {&w1, &w2}) {
    const ExaminationResult ready = worker->Do(Examination::WORK_LOOK_AT_MACHINE);
    EXPECT_THAT(NotOk(ready), IsEmpty());
    EXPECT_TRUE(ready.has_left_mark());
  }
  const std::string address = w2.Await().listen_address();
  const auto both = [&](Examination::Work work) {
    w1.Want(work, {"w2"});
    w2.Want(work, {"w1"});
    w1.Await();
    w2.Await();
  };
  both(Examination::WORK_LOOK_FOR_MARKS);
  both(Examination::WORK_CHANGE_MARKS);
  both(Examination::WORK_LOOK_FOR_CHANGES);
  EXPECT_TRUE(w1->result()->has_changed_mark());
  EXPECT_THAT(Found(*w1->result(), "shared storage changes"), HasSubstr("OK: of 1 others"));
  const ExaminationResult end = w1.Do(Examination::WORK_MEASURE_LINKS, {}, {{"w2", address}});
  EXPECT_THAT(NotOk(end), IsEmpty());
  EXPECT_THAT(NotOk(*w2->result()), IsEmpty());
  ASSERT_EQ(end.links_size(), 1);
  EXPECT_EQ(end.links(0).worker(), "w2");
  EXPECT_EQ(end.links(0).error(), "");
  EXPECT_GT(end.links(0).bytes_per_second(), 0);
  EXPECT_GT(end.links(0).back_bytes_per_second(), 0);
  ASSERT_EQ(end.links(0).collectives_size(), 1);
  EXPECT_EQ(end.links(0).collectives(0).there_bytes_per_second(), 2000);
  EXPECT_EQ(end.links(0).collectives(0).back_bytes_per_second(), 1000);
  // A step that is done is not done again, and what was found stays.
  EXPECT_EQ(w1.Do(Examination::WORK_MEASURE_LINKS).links_size(), 1);
}

TEST_F(ExaminerTest, WhereATaskHoldsTheSlotThePlainLinkIsMeasuredAllTheSame) {
  const testing::FakeTrainer trainer(testing::GoodTrainer());
  Worker w1("w1", storage_.path(), "127.0.0.1", {trainer.Slot()});
  Worker w2("w2", storage_.path(), "127.0.0.1", {trainer.Slot()});
  w2->SetBusySlots({"slot"});
  w1.Do(Examination::WORK_LOOK_AT_MACHINE);
  const std::string address = w2.Do(Examination::WORK_LOOK_AT_MACHINE).listen_address();
  const ExaminationResult end = w1.Do(Examination::WORK_MEASURE_LINKS, {}, {{"w2", address}});
  ASSERT_EQ(end.links_size(), 1);
  EXPECT_GT(end.links(0).back_bytes_per_second(), 0);
  ASSERT_EQ(end.links(0).collectives_size(), 1);
  EXPECT_THAT(end.links(0).collectives(0).skipped(), HasSubstr("busy: no CPU slot of w2"));
}

TEST_F(ExaminerTest, AfterwardsItPutsAwayWhatItHasOpened) {
  std::string listener;
  {
    Worker w1("w1", storage_.path());
    listener = w1.Do(Examination::WORK_LOOK_AT_MACHINE).listen_address();
    EXPECT_TRUE(std::filesystem::exists(folder_ + "/w1"));
    const std::string token = w1.token();
    w1->Update(nullptr);
    EXPECT_FALSE(w1->result().has_value());
    // The next one begins when the last is put away.
    w1.BeginAnother('b');
    w1.Do(Examination::WORK_LOOK_AT_MACHINE);
    EXPECT_FALSE(std::filesystem::exists(folder_ + "/w1"));
    EXPECT_FALSE(MeasureLink("127.0.0.1", listener, token, Clock::Real()).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(storage_.path() + "/tmp/doctor-" + std::string(32, 'b')));
}

TEST_F(ExaminerTest, OneThatComesIntoTheMidstOfAnExaminationSaysSo) {
  Worker worker("w1", storage_.path());
  EXPECT_THAT(NotOk(worker.Do(Examination::WORK_CHANGE_MARKS)),
              ElementsAre(HasSubstr("start: the daemon has started anew")));
}

TEST_F(ExaminerTest, WhatIsWrongIsNamed) {
  Worker worker("w1", "/proc", /*data_address=*/"192.0.2.1");
  const ExaminationResult ready = worker.Do(Examination::WORK_LOOK_AT_MACHINE);
  EXPECT_EQ(ready.listen_address(), "");
  EXPECT_FALSE(ready.has_left_mark());
  EXPECT_THAT(NotOk(ready), ElementsAre(HasSubstr("ports: 192.0.2.1"), HasSubstr("links: "),
                                        HasSubstr("storage: "), HasSubstr("shared storage: ")));
  EXPECT_FALSE(worker.Do(Examination::WORK_CHANGE_MARKS).has_changed_mark());
}

TEST_F(ExaminerTest, ALinkThatFailsAndAMarkThatIsElsewhereAreNamed) {
  Worker worker("w1", storage_.path());
  worker.Do(Examination::WORK_LOOK_AT_MACHINE);
  const ExaminationResult end =
      worker.Do(Examination::WORK_MEASURE_LINKS, {}, {{"w2", "127.0.0.1:1"}});
  ASSERT_EQ(end.links_size(), 1);
  EXPECT_THAT(end.links(0).error(), HasSubstr("cannot connect to 127.0.0.1:1"));
  EXPECT_THAT(NotOk(end), IsEmpty());

  EXPECT_THAT(NotOk(worker.Do(Examination::WORK_LOOK_FOR_MARKS, {"w2"})),
              ElementsAre(HasSubstr("shared storage: does not see what was written by w2")));
  // And what it has not seen at first is not looked for again.
  worker.Do(Examination::WORK_CHANGE_MARKS);
  const ExaminationResult looked = worker.Do(Examination::WORK_LOOK_FOR_CHANGES, {"w2"});
  EXPECT_EQ(Found(looked, "shared storage changes"), "no such check");
}

TEST_F(ExaminerTest, OnGpusTheTrainersLibraryIsTried) {
  const auto look = [this](const std::string& script, bool busy = false) {
    const testing::FakeTrainer trainer(script);
    Worker worker("w1", storage_.path(), "127.0.0.1", {trainer.Slot(kGpu)});
    if (busy) worker->SetBusySlots({"slot"});
    const ExaminationResult result = worker.Do(Examination::WORK_LOOK_AT_MACHINE);
    EXPECT_NE(Found(result, "rdma"), "no such check");
    return Found(result, "trainer on GPU");
  };
  const std::string good = R"(case "$*" in *--start) device=H200;; esac
printf '{"library": "a.so", "nccl": "2.27.5", "devices": 8, "started": "%s"}' "$device"
echo
)";
  EXPECT_EQ(look(good), "VERDICT_OK: NCCL 2.27.5, started: H200");
  EXPECT_EQ(look(good, /*busy=*/true),
            "VERDICT_OK: NCCL 2.27.5, loaded only: busy, no GPU slot is free");
  EXPECT_EQ(look("echo anneal-trainer check-cuda: libnccl.so.2 is missing >&2\nexit 1\n"),
            "VERDICT_FAILED: anneal-trainer check-cuda: libnccl.so.2 is missing");
  Worker cpu("w2", storage_.path());
  EXPECT_EQ(Found(cpu.Do(Examination::WORK_LOOK_AT_MACHINE), "trainer on GPU"), "no such check");
}

}  // namespace
}  // namespace anneal
