#include "tools/anneal/explain.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'600);

v1::JobEvent EventAt(int64_t unix_seconds) {
  v1::JobEvent event;
  event.set_level(v1::JobEvent::LEVEL_INFO);
  event.mutable_time()->set_seconds(unix_seconds);
  return event;
}

TEST(ExplainTest, SaysWhatAJobWaitsForAndSinceWhen) {
  v1::Job job;
  job.set_name("jobs/01hf7yat00aaaaaaaaaaaaaaaa");
  job.set_state(v1::JOB_STATE_QUEUED);
  job.set_state_message("needs 4 GPU slots, 2 free, worker g3 draining");
  v1::JobEvent queued = EventAt(1'700'000'300);
  queued.mutable_state_change()->set_to(v1::JOB_STATE_QUEUED);
  EXPECT_EQ(FormatExplanation(job, {queued}, kNow),
            "job 01hf7yat00aaaaaaaaaaaaaaaa is QUEUED for 5m00s: needs 4 GPU slots, 2 free, worker "
            "g3 draining\n");
}

TEST(ExplainTest, ListsAttemptsWarningsAndWhatWasDoneAgain) {
  v1::Job job;
  job.set_name("jobs/01hf7yat00aaaaaaaaaaaaaaaa");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.mutable_usage()->set_slot_seconds(600);
  job.mutable_usage()->set_redone_slot_seconds(90);
  job.mutable_usage()->set_idle_slot_seconds(30);
  v1::JobEvent ended = EventAt(1'700'000'000), warning = EventAt(1'700'000'100),
               note = EventAt(1'700'000'200);
  ended.mutable_attempt_end()->set_generation(1);
  ended.mutable_attempt_end()->set_rank(3);
  ended.mutable_attempt_end()->set_worker("g7");
  ended.mutable_attempt_end()->set_step(120);
  ended.mutable_attempt_end()->set_cause("killed by signal 9 (SIGKILL)");
  ended.mutable_attempt_end()->set_blame("infrastructure");
  ended.mutable_attempt_end()->set_resume_step(100);
  warning.set_level(v1::JobEvent::LEVEL_WARNING);
  warning.set_message("checkpoint 100-g1 is damaged");
  note.set_message("validation loss 0.5");
  const std::string text = FormatExplanation(job, {ended, warning, note}, kNow);
  EXPECT_THAT(text, HasSubstr("  generation 1, rank 3 on g7, after step 120: killed by signal 9 "
                              "(SIGKILL) (infrastructure); steps 101-120 done again\n"));
  ended.mutable_attempt_end()->set_resume_step(119);
  EXPECT_THAT(FormatExplanation(job, {ended}, kNow), HasSubstr("; step 120 done again\n"));
  ended.mutable_attempt_end()->set_resume_step(120);
  EXPECT_THAT(FormatExplanation(job, {ended}, kNow), HasSubstr("(infrastructure)\n"));
  EXPECT_THAT(text, HasSubstr("warnings:\n  checkpoint 100-g1 is damaged\n"));
  EXPECT_THAT(text, HasSubstr("held slots for 10m00s in all, 1m30s of that for steps that were "
                              "done again, 30s without training (starting, stopping, "
                              "recovering)\n"));
  EXPECT_THAT(text, Not(HasSubstr("validation")));
}

v1::Job FailedJob() {
  v1::Job job;
  job.set_name("jobs/01hf7yat00aaaaaaaaaaaaaaaa");
  job.set_state(v1::JOB_STATE_FAILED);
  job.set_state_reason("BAD_DATA");
  job.set_state_message("2 errors in the data");
  job.mutable_error()->set_code(3);
  job.mutable_error()->set_message("2 errors in the data; the first: train.jsonl line 7");
  job.mutable_usage()->set_slot_seconds(1);
  return job;
}

TEST(ExplainTest, SaysWhyAJobFailed) {
  const std::string text = FormatExplanation(FailedJob(), {}, kNow);
  EXPECT_THAT(text, StartsWith("job 01hf7yat00aaaaaaaaaaaaaaaa is FAILED: 2 errors in the data\n"));
  EXPECT_THAT(text, HasSubstr("the first: train.jsonl line 7"));
}

TEST(ExplainTest, SaysItToProgramsToo) {
  v1::JobEvent failed = EventAt(1'700'000'300), ended = EventAt(1'700'000'200),
               warning = EventAt(1'700'000'100);
  failed.set_level(v1::JobEvent::LEVEL_ERROR);
  failed.mutable_state_change()->set_to(v1::JOB_STATE_FAILED);
  ended.set_level(v1::JobEvent::LEVEL_ERROR);
  ended.mutable_attempt_end()->set_step(120);
  ended.mutable_attempt_end()->set_resume_step(0);
  warning.set_level(v1::JobEvent::LEVEL_WARNING);
  warning.set_message("checkpoint 100-g1 is damaged");
  const Json json = ExplanationJson(FailedJob(), {warning, ended, failed});
  EXPECT_EQ(json["state"], "JOB_STATE_FAILED");
  EXPECT_EQ(json["state_reason"], "BAD_DATA");
  EXPECT_EQ(json["state_time"], "2023-11-14T22:18:20Z");
  EXPECT_EQ(json["error"]["message"], "2 errors in the data; the first: train.jsonl line 7");
  ASSERT_THAT(json["attempts"], SizeIs(1));
  EXPECT_EQ(json["attempts"][0]["attempt_end"]["step"], 120);
  EXPECT_EQ(json["attempts"][0]["attempt_end"]["resume_step"], 0);
  ASSERT_THAT(json["warnings"], SizeIs(1));
  EXPECT_EQ(json["warnings"][0]["message"], "checkpoint 100-g1 is damaged");
  EXPECT_EQ(json["usage"]["slot_seconds"], 1);
}

}  // namespace
}  // namespace anneal::cli
