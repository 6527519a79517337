#include "tools/anneal/progress.h"

#include <sstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::cli {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

v1::WatchJobResponse Snapshot(v1::JobState state, const std::string& message = "") {
  v1::WatchJobResponse update;
  update.mutable_snapshot()->set_state(state);
  update.mutable_snapshot()->set_state_message(message);
  return update;
}

v1::WatchJobResponse Progress(int64_t step, int64_t total) {
  v1::WatchJobResponse update;
  update.mutable_progress()->set_step(step);
  update.mutable_progress()->set_total_steps(total);
  update.mutable_progress()->set_phase("train");
  return update;
}

v1::WatchJobResponse Step(int64_t step, double loss, double seconds = 2) {
  v1::WatchJobResponse update;
  update.mutable_step()->set_step(step);
  update.mutable_step()->set_train_loss(loss);
  update.mutable_step()->set_tokens_per_second(81);
  update.mutable_step()->set_step_seconds(seconds);
  return update;
}

v1::WatchJobResponse Event(int64_t sequence, const std::string& message) {
  v1::WatchJobResponse update;
  update.set_sequence(sequence);
  update.mutable_event()->set_sequence(sequence);
  update.mutable_event()->set_level(v1::JobEvent::LEVEL_WARNING);
  update.mutable_event()->set_message(message);
  return update;
}

TEST(FormatProgressTest, ShowsWhatIsKnownAndFitsTheTerminal) {
  ProgressView view{.state = v1::JOB_STATE_RUNNING, .phase = "load"};
  EXPECT_EQ(FormatProgress(view, 80), "RUNNING: load");
  view = {.state = v1::JOB_STATE_RUNNING,
          .phase = "train",
          .step = 12,
          .total_steps = 64,
          .loss = 0.53217,
          .tokens_per_second = 81.4,
          .left = absl::Seconds(130)};
  EXPECT_EQ(FormatProgress(view, 80),
            "[####--------------------] 12/64  loss 0.5322  81 tokens/s  2m10s left");
  EXPECT_EQ(FormatProgress(view, 0), "step 12/64  loss 0.5322  81 tokens/s  2m10s left");
  EXPECT_EQ(FormatProgress(view, 30), "[####--------------------] 12/");
  view.step = 100;  // more than there are, from a server that is wrong
  EXPECT_THAT(FormatProgress(view, 80), HasSubstr("[########################] 100/64"));
}

TEST(ProgressDisplayTest, PlainLinesAreSpacedOut) {
  SimulatedClock clock;
  std::ostringstream out;
  ProgressDisplay display(out, clock, 0, absl::Seconds(5));
  display.Show(Snapshot(v1::JOB_STATE_RUNNING, "on w0"));
  display.Show(Progress(0, 4));
  display.Show(Step(1, 2.0));
  display.Show(Step(2, 1.5));  // too soon
  clock.AdvanceTime(absl::Seconds(6));
  display.Show(Step(3, 1.25));
  display.Show(Step(4, 1.0));  // the last is always shown
  const std::string text = out.str();
  EXPECT_THAT(text, HasSubstr(" RUNNING: on w0\n"));
  EXPECT_THAT(text, HasSubstr("step 1/4  loss 2.0000  81 tokens/s  6s left\n"));
  EXPECT_THAT(text, Not(HasSubstr("step 2/4")));
  EXPECT_THAT(text, HasSubstr("step 3/4  loss 1.2500"));
  EXPECT_THAT(text, EndsWith("step 4/4  loss 1.0000  81 tokens/s  0s left\n"));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
}

TEST(ProgressDisplayTest, EachStepHasItsOwnLossWhenProgressIsAhead) {
  SimulatedClock clock;
  std::ostringstream out;
  ProgressDisplay display(out, clock, 0, absl::Seconds(5));
  display.Show(Progress(3, 3));
  display.Show(Step(1, 2.0));
  display.Show(Step(2, 1.5));
  display.Show(Step(3, 1.0));
  EXPECT_EQ(out.str(),
            "step 0/3\n"
            "step 1/3  loss 2.0000  81 tokens/s  4s left\n"
            "step 3/3  loss 1.0000  81 tokens/s  0s left\n");
}

TEST(ProgressDisplayTest, TerminalLineIsRedrawnInPlace) {
  SimulatedClock clock;
  std::ostringstream out;
  ProgressDisplay display(out, clock, 41);
  display.Show(Progress(0, 4));
  display.Show(Step(1, 2.0));
  display.Show(Event(1, "row 7 is long"));
  EXPECT_THAT(out.str(), HasSubstr("\r\x1b[K[######------------------] 1/4  loss 2.0\r"));
  EXPECT_THAT(out.str(), HasSubstr("warning: row 7 is long\n"));
  display.Clear();
  EXPECT_THAT(out.str(), EndsWith("\r\x1b[K"));
}

TEST(ProgressDisplayTest, WhatWasShownIsNotShownAgainAfterABrokenStream) {
  SimulatedClock clock;
  std::ostringstream out;
  ProgressDisplay display(out, clock, 0, absl::ZeroDuration());
  display.Show(Snapshot(v1::JOB_STATE_RUNNING));
  display.Show(Progress(0, 9));
  display.Show(Event(1, "first"));
  display.Show(Step(1, 2.0));
  const std::string before = out.str();
  display.Show(Snapshot(v1::JOB_STATE_RUNNING));
  display.Show(Event(1, "first"));
  display.Show(Step(1, 2.0));
  EXPECT_EQ(out.str(), before);
  EXPECT_EQ(display.last_sequence(), 1);
  EXPECT_EQ(display.last_step(), 1);
}

TEST(ProgressDisplayTest, HostileMessagesStayOnTheirLine) {
  SimulatedClock clock;
  std::ostringstream out;
  ProgressDisplay display(out, clock, 0);
  display.Show(Event(1, "\x1b]0;title\x07"));
  EXPECT_THAT(out.str(), HasSubstr("?]0;title?\n"));
}

}  // namespace
}  // namespace anneal::cli
