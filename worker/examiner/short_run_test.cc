#include "worker/examiner/short_run.h"

#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <string>

#include "common/base/status_matchers.h"
#include "gmock/gmock.h"
#include "worker/examiner/testing/fake_trainer.h"

namespace anneal {
namespace {

using testing::FakeTrainer;
using ::testing::HasSubstr;
using testing::StatusIs;

absl::StatusOr<std::unique_ptr<ShortRun>> Start(
    const FakeTrainer& trainer, std::function<bool()> must_end = [] { return false; },
    absl::Duration patience = absl::Seconds(60)) {
  return ShortRun::Start(trainer.Slot(), {"measure", "--hard"}, std::move(must_end), patience,
                         Clock::Real());
}

TEST(ShortRunTest, WordsAndResultComeThroughAndNotesDoNot) {
  const FakeTrainer trainer(
      "echo a library greets >&2\necho NCCL INFO\necho \"where $1 $2\"\necho '{\"a\": 1}'\n");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto run, Start(trainer));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const std::string where, run->AwaitWord("where"));
  EXPECT_EQ(where, "measure --hard");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const Json result, run->AwaitResult());
  EXPECT_EQ(result, (Json{{"a", 1}}));
}

TEST(ShortRunTest, WhatAProcessSaysLastIsTheError) {
  const FakeTrainer trainer(
      "echo a note >&2\necho anneal-trainer: no such luck >&2\necho raised from x.cpp >&2\nexit "
      "1\n");
  for (const bool word : {true, false}) {
    ANNEAL_ASSERT_OK_AND_ASSIGN(const auto run, Start(trainer));
    EXPECT_THAT(word ? run->AwaitWord("where").status() : run->AwaitResult().status(),
                StatusIs(absl::StatusCode::kUnavailable, "anneal-trainer: no such luck"));
  }
  const FakeTrainer killed("kill -9 $$\n");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto run, Start(killed));
  EXPECT_THAT(run->AwaitResult(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("ended by signal 9")));
}

TEST(ShortRunTest, OneThatEndsWellWithoutAResultIsAnError) {
  const FakeTrainer trainer("echo only words\n");
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto first, Start(trainer));
  EXPECT_THAT(first->AwaitResult(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("without a result")));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const auto second, Start(trainer));
  EXPECT_THAT(second->AwaitWord("where"),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("without a where")));
}

TEST(ShortRunTest, ItEndsWhenItMustAndLeavesNothingBehind) {
  const FakeTrainer trainer("echo pid $$\nexec sleep 1000\n");
  std::atomic<bool> must_end = false;
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto run, Start(trainer, [&] { return must_end.load(); }));
  ANNEAL_ASSERT_OK_AND_ASSIGN(const std::string pid, run->AwaitWord("pid"));
  must_end = true;
  EXPECT_THAT(run->AwaitResult(), StatusIs(absl::StatusCode::kAborted));
  run.reset();
  EXPECT_EQ(::kill(std::atoi(pid.c_str()), 0), -1) << "it still runs";

  ANNEAL_ASSERT_OK_AND_ASSIGN(run, Start(
                                       trainer, [] { return false; }, absl::Milliseconds(1)));
  EXPECT_THAT(run->AwaitResult(), StatusIs(absl::StatusCode::kDeadlineExceeded,
                                           HasSubstr("measure has not ended in time")));
}

TEST(ShortRunTest, AProgramThatIsMissingIsAnError) {
  EXPECT_THAT(ShortRun::Start(
                  {"cpu0", v1::ResourceSpec::ACCELERATOR_CPU, "/none-such", {}}, {"a"},
                  [] { return false; }, absl::Seconds(60), Clock::Real()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/none-such")));
}

}  // namespace
}  // namespace anneal
