#include "worker/examiner/examiner.h"

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/temp_dir.h"
#include "common/host/storage_checks.h"
#include "gmock/gmock.h"

namespace anneal {
namespace {

using internal::Examination;
using internal::ExaminationResult;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Examination NewExamination(char digit) {
  Examination wanted;
  wanted.set_token(std::string(32, digit));
  return wanted;
}

// One worker's examiner, and what a daemon and a coordinator do with it.
class Worker {
 public:
  Worker(const std::string& name, const std::string& storage_root,
         const std::string& data_address = "127.0.0.1")
      : examiner_(
            {.data_address = data_address,
             .storage_root = storage_root,
             .worker = name,
             .mark_patience = absl::Milliseconds(300)},
            FileSystem::Posix(), [this] { Notify(); }, Clock::Real()) {}

  Examiner& operator*() { return examiner_; }
  Examiner* operator->() { return &examiner_; }

  ExaminationResult Await(bool (ExaminationResult::*reached)() const) {
    absl::MutexLock lock(&mu_);
    ExaminationResult result;
    auto is_there = [&] {
      const std::optional<ExaminationResult> now = examiner_.result();
      if (now.has_value()) result = *now;
      return now.has_value() && ((*now).*reached)();
    };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&is_there), absl::Seconds(60)));
    return result;
  }

 private:
  // Makes Await look again.
  void Notify() { absl::MutexLock lock(&mu_); }

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

class ExaminerTest : public ::testing::Test {
 protected:
  testing::TempDir storage_;
  const std::string folder_ = storage_.path() + "/tmp/doctor-" + std::string(32, 'a');
};

TEST_F(ExaminerTest, TwoWorkersLookAtEachOther) {
  Worker w1("w1", storage_.path()), w2("w2", storage_.path());
  Examination wanted = NewExamination('a');
  w1->Update(&wanted);
  w2->Update(&wanted);
  EXPECT_TRUE(w1->TakeNews());
  const ExaminationResult first = w1.Await(&ExaminationResult::is_ready);
  const ExaminationResult second = w2.Await(&ExaminationResult::is_ready);
  EXPECT_THAT(NotOk(first), IsEmpty());
  EXPECT_TRUE(first.has_left_mark());
  EXPECT_FALSE(first.is_complete());
  EXPECT_TRUE(first.has_hear_time() && first.has_send_time());

  wanted.set_everyone_is_ready(true);
  Examination of_w1 = wanted, of_w2 = wanted;
  of_w1.add_marks("w2");
  of_w1.add_peers()->set_worker("w2");
  of_w1.mutable_peers(0)->set_address(second.listen_address());
  of_w2.add_marks("w1");
  w1->Update(&of_w1);
  w2->Update(&of_w2);
  const ExaminationResult end = w1.Await(&ExaminationResult::is_complete);
  EXPECT_THAT(NotOk(end), IsEmpty());
  ASSERT_EQ(end.links_size(), 1);
  EXPECT_EQ(end.links(0).worker(), "w2");
  EXPECT_EQ(end.links(0).error(), "");
  EXPECT_GT(end.links(0).bytes_per_second(), 0);
  EXPECT_THAT(NotOk(w2.Await(&ExaminationResult::is_complete)), IsEmpty());
}

TEST_F(ExaminerTest, AfterwardsItPutsAwayWhatItHasOpened) {
  std::string listener;
  {
    Worker w1("w1", storage_.path());
    const Examination wanted = NewExamination('a');
    w1->Update(&wanted);
    listener = w1.Await(&ExaminationResult::is_ready).listen_address();
    EXPECT_TRUE(std::filesystem::exists(folder_ + "/w1"));
    w1->Update(nullptr);
    EXPECT_FALSE(w1->result().has_value());
    // The next one begins when the last is put away.
    const Examination next = NewExamination('b');
    w1->Update(&next);
    EXPECT_EQ(w1.Await(&ExaminationResult::is_ready).token(), next.token());
    EXPECT_FALSE(std::filesystem::exists(folder_ + "/w1"));
    EXPECT_FALSE(MeasureLink("127.0.0.1", listener, wanted.token(), Clock::Real()).ok());
  }
  EXPECT_FALSE(
      std::filesystem::exists(storage_.path() + "/tmp/doctor-" + std::string(32, 'b') + "/w1"));
}

TEST_F(ExaminerTest, WhatIsWrongIsNamed) {
  Worker worker("w1", "/proc", /*data_address=*/"192.0.2.1");
  Examination wanted = NewExamination('a');
  worker->Update(&wanted);
  const ExaminationResult ready = worker.Await(&ExaminationResult::is_ready);
  EXPECT_EQ(ready.listen_address(), "");
  EXPECT_FALSE(ready.has_left_mark());
  EXPECT_THAT(NotOk(ready), ElementsAre(HasSubstr("ports: 192.0.2.1"), HasSubstr("links: "),
                                        HasSubstr("storage: "), HasSubstr("shared storage: ")));
}

TEST_F(ExaminerTest, ALinkThatFailsAndAMarkThatIsElsewhereAreNamed) {
  Worker worker("w1", storage_.path());
  Examination wanted = NewExamination('a');
  worker->Update(&wanted);
  const std::string own = worker.Await(&ExaminationResult::is_ready).listen_address();
  wanted.set_everyone_is_ready(true);
  wanted.add_peers()->set_worker("w2");
  wanted.mutable_peers(0)->set_address("127.0.0.1:1");
  worker->Update(&wanted);
  ExaminationResult end = worker.Await(&ExaminationResult::is_complete);
  ASSERT_EQ(end.links_size(), 1);
  EXPECT_THAT(end.links(0).error(), HasSubstr("cannot connect to 127.0.0.1:1"));
  EXPECT_THAT(NotOk(end), IsEmpty());

  Examination next = NewExamination('b');
  next.set_everyone_is_ready(true);
  next.add_marks("w2");
  worker->Update(&next);
  end = worker.Await(&ExaminationResult::is_complete);
  EXPECT_THAT(NotOk(end), ElementsAre(HasSubstr("shared storage: does not see what was written by "
                                                "w2")));
  EXPECT_THAT(own, Not(end.listen_address()));
}

}  // namespace
}  // namespace anneal
