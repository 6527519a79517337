#include "coordinator/server/job_meters.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kStart = absl::Hours(1);
const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);

class JobMetersTest : public ::testing::Test {
 protected:
  static internal::JobRecord Record(v1::JobState state, int64_t generation, int ranks = 0) {
    internal::JobRecord record;
    record.set_id("j");
    record.mutable_job()->set_state(state);
    record.mutable_job()->set_generation(generation);
    for (int i = 0; i < ranks; ++i) record.mutable_train()->add_ranks()->set_rank(i);
    return record;
  }

  MetricRegistry registry_;
  CoordinatorMetrics metrics_{registry_};
  JobMeters meters_{metrics_, registry_};
};

TEST_F(JobMetersTest, ShowsStateSlotsAndRestarts) {
  meters_.Start(Record(v1::JOB_STATE_QUEUED, 0), {}, kNow);
  EXPECT_THAT(registry_.Scrape(), Not(HasSubstr("anneal_job_restarts_total")))
      << "of trainers it has nothing to say yet";
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_state{job_id=\"j\",state=\"QUEUED\"} 1\n"));

  meters_.TakeRecord(Record(v1::JOB_STATE_STARTING, 1, 2), kNow);
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_restarts_total{job_id=\"j\"} 0\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_slots{job_id=\"j\"} 2\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("{job_id=\"j\",state=\"QUEUED\"} 0\n"));

  meters_.TakeRecord(Record(v1::JOB_STATE_STARTING, 3, 2), kNow);
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_restarts_total{job_id=\"j\"} 2\n"));
}

TEST_F(JobMetersTest, ProgressIsAStepAPhaseOrANewState) {
  const auto expect_progress = [&](int64_t unix_seconds) {
    metrics_.job_last_progress.Add(0, {"j"});
    EXPECT_THAT(registry_.Scrape(),
                HasSubstr(absl::StrCat("anneal_job_last_progress_timestamp_seconds{job_id=\"j\"} ",
                                       unix_seconds)));
  };
  meters_.Start(Record(v1::JOB_STATE_STARTING, 1), {}, kNow);
  expect_progress(1'700'000'000);
  meters_.TakePhase("j", "load", kNow + absl::Seconds(10));
  expect_progress(1'700'000'010);
  meters_.TakeRecord(Record(v1::JOB_STATE_RUNNING, 1), kNow + absl::Seconds(20));
  expect_progress(1'700'000'020);
  // A change of the record within a state is no progress: what waits is explained again and again.
  meters_.TakeRecord(Record(v1::JOB_STATE_RUNNING, 1), kNow + absl::Seconds(30));
  expect_progress(1'700'000'020);
  meters_.TakeStep("j", {.step = 1, .total_steps = 5, .step_seconds = 2}, kNow + absl::Seconds(40));
  expect_progress(1'700'000'040);
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_remaining_seconds{job_id=\"j\"} 8\n"));
}

TEST_F(JobMetersTest, CountsCheckpointsAndWhatWasDoneAgain) {
  meters_.Start(Record(v1::JOB_STATE_RUNNING, 1), {}, kNow);
  EXPECT_THAT(registry_.Scrape(),
              HasSubstr("anneal_job_checkpoint_failures_total{job_id=\"j\"} 0\n"));
  meters_.TakeStep("j", {.step = 12, .total_steps = 50}, kNow);
  protocol::Report written, failed, resumed;
  written.checkpoint = protocol::CheckpointReport{.step = 10, .bytes = 4096, .write_seconds = 1.5};
  failed.checkpoint_failed = protocol::CheckpointFailedReport{.step = 11};
  resumed.resumed = protocol::ResumedReport{.step = 5, .damaged = {{.dir = "x"}}};
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_last_checkpoint_timestamp_seconds{job_id="
                                            "\"j\"} 1700000000\n"));
  for (const protocol::Report& report : {written, failed, resumed})
    meters_.TakeReport("j", report, kNow + absl::Seconds(60));
  const std::string scrape = registry_.Scrape();
  EXPECT_THAT(scrape, HasSubstr("timestamp_seconds{job_id=\"j\"} 1700000060\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_job_checkpoints_total{job_id=\"j\"} 1\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_job_checkpoint_bytes{job_id=\"j\"} 4096\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_job_checkpoint_failures_total{job_id=\"j\"} 1\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_job_damaged_checkpoints_total{job_id=\"j\"} 1\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_job_redone_steps_total{job_id=\"j\"} 7\n"));
}

TEST_F(JobMetersTest, SeriesOfAJobLingerFiveMinutesAfterItsEnd) {
  meters_.Start(Record(v1::JOB_STATE_RUNNING, 1, 1), {}, kNow);
  meters_.TakeStep("j", {.step = 1, .total_steps = 1, .train_loss = 0.5}, kNow);
  internal::JobRecord failed = Record(v1::JOB_STATE_FAILED, 1, 1);
  failed.mutable_job()->set_state_reason("NON_FINITE_LOSS");
  meters_.TakeRecord(failed, kNow);
  meters_.End("j", kStart);
  meters_.RemoveEndedSeries(kStart + absl::Minutes(4));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_train_loss{job_id=\"j\"} 0.5\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_slots{job_id=\"j\"} 0\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_end_info{job_id=\"j\",reason=\"NON_FINITE_"
                                            "LOSS\",state=\"FAILED\"} 1\n"));
  meters_.RemoveEndedSeries(kStart + absl::Minutes(5));
  EXPECT_THAT(registry_.Scrape(), Not(HasSubstr("job_id")));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_jobs_ended_total{reason=\"NON_FINITE_LOSS\","
                                            "state=\"FAILED\"} 1\n"));
}

TEST_F(JobMetersTest, ReasonsThatWorkersInventAreBounded) {
  for (int i = 0; i < 1000; ++i)
    metrics_.CountEnd("j", v1::JOB_STATE_FAILED, absl::StrCat("REASON_", i));
  metrics_.CountEnd("j", v1::JOB_STATE_FAILED, std::string(1000, 'X'));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("reason=\"REASON_5\""));
  EXPECT_THAT(registry_.Scrape(), Not(HasSubstr("reason=\"REASON_500\"")));
  EXPECT_THAT(registry_.Scrape(), Not(HasSubstr("XXXX")));
}

TEST_F(JobMetersTest, WorkersThatAreGoneAreNotShown) {
  v1::Worker away, here;
  away.set_name("workers/away");
  away.set_state(v1::Worker::STATE_LOST);
  here.set_name("workers/here");
  here.set_state(v1::Worker::STATE_DRAINING);
  metrics_.CountWorkers({away, here});
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_worker_up{worker=\"away\"} 0\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_worker_up{worker=\"here\"} 1\n"));
  metrics_.CountWorkers({here});
  EXPECT_THAT(registry_.Scrape(), Not(HasSubstr("worker=\"away\"")));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("worker=\"here\""));
}

TEST_F(JobMetersTest, TheQueueShowsItsLongestWaitAndWhatItWants) {
  const auto gpu = v1::ResourceSpec::ACCELERATOR_GPU;
  const auto waiting = [](const char* id, absl::Duration since) {
    return WaitingJob{.place = {.since = kNow - since, .id = id}};
  };
  // Without a worker nothing is prepared, so whoever brings workers as they are wanted would wait
  // for ever if only prepared jobs counted.
  WaitingJob a = waiting("a", absl::Seconds(50));
  a.needs_prepare = true;
  WaitingJob b = waiting("b", absl::Seconds(30)), c = waiting("c", absl::Seconds(20));
  a.accelerator = b.accelerator = c.accelerator = gpu;
  a.min_slots = a.max_slots = 8;
  b.min_slots = b.max_slots = 4;
  c.min_slots = c.max_slots = 2;
  SlotsWanted wanted;
  for (const WaitingJob& job : {a, b, c}) wanted.Add(job);
  metrics_.CountQueue({a, b, c}, wanted, kNow);
  const std::string scrape = registry_.Scrape();
  EXPECT_THAT(scrape, HasSubstr("anneal_jobs_oldest_wait_seconds{resource=\"prepare_slot\"} 50\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_jobs_oldest_wait_seconds{resource=\"slots\"} 30\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_slots_wanted{accelerator=\"gpu\"} 14\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_slots_wanted{accelerator=\"cpu\"} 0\n"));
}

}  // namespace
}  // namespace anneal
