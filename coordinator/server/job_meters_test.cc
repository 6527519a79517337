#include "coordinator/server/job_meters.h"

#include "absl/strings/str_cat.h"
#include "coordinator/lifecycle/proto_time.h"
#include "coordinator/server/job_queue.h"
#include "gmock/gmock.h"
#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"
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
    if (state != v1::JOB_STATE_PENDING) record.mutable_prepare()->set_attempt(1);
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
  for (const char* total : {"tokens", "supervised_tokens", "loss_sum", "loss_tokens",
                            "failed_attempts", "checkpoints", "redone_steps"}) {
    EXPECT_THAT(registry_.Scrape(),
                HasSubstr(absl::StrCat("anneal_job_", total, "_total{job_id=\"j\"} 0\n")));
  }
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_slots{job_id=\"j\"} 2\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("{job_id=\"j\",state=\"QUEUED\"} 0\n"));

  meters_.TakeRecord(Record(v1::JOB_STATE_STARTING, 3, 2), kNow);
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_restarts_total{job_id=\"j\"} 2\n"));
}

TEST_F(JobMetersTest, OneThatWaitsForItsFirstWorkerHasNoSeries) {
  const std::string before = registry_.Scrape();
  meters_.Start(Record(v1::JOB_STATE_PENDING, 0), {}, kNow);
  meters_.TakeRecord(Record(v1::JOB_STATE_PENDING, 0), kNow);
  EXPECT_EQ(registry_.Scrape(), before);
  meters_.TakeRecord(Record(v1::JOB_STATE_PREPARING, 0), kNow);
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_info{display_name="));
  EXPECT_THAT(registry_.Scrape(),
              HasSubstr("anneal_job_state{job_id=\"j\",state=\"PREPARING\"} 1\n"));
  // Its worker is lost.
  meters_.TakeRecord(Record(v1::JOB_STATE_PENDING, 0), kNow);
  EXPECT_THAT(registry_.Scrape(), HasSubstr("state=\"PREPARING\"} 0\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("state=\"PENDING\"} 1\n"));
}

TEST_F(JobMetersTest, OneThatNoWorkerHadLeavesItsEndAlone) {
  internal::JobRecord record = Record(v1::JOB_STATE_PENDING, 0);
  meters_.Start(record, {}, kNow);
  record.mutable_job()->set_state(v1::JOB_STATE_CANCELLED);
  record.mutable_job()->set_state_reason("CANCELLED");
  meters_.TakeRecord(record, kNow);
  meters_.TakeRecord(record, kNow);
  const std::string scrape = registry_.Scrape();
  EXPECT_THAT(scrape, Not(HasSubstr("anneal_job_state{")));
  EXPECT_THAT(scrape, HasSubstr("anneal_job_end_info{"));
  EXPECT_THAT(scrape,
              HasSubstr("anneal_jobs_ended_total{reason=\"CANCELLED\",state=\"CANCELLED\"} 1\n"));
}

TEST_F(JobMetersTest, AttemptsThatFailedAreCountedApartFromThoseThatWereMoved) {
  internal::JobRecord record = Record(v1::JOB_STATE_RUNNING, 2, 1);
  record.mutable_job()->mutable_failures()->set_infrastructure(1);
  meters_.Start(record, {}, kNow);
  const std::string total = "anneal_job_failed_attempts_total{job_id=\"j\"} ";
  EXPECT_THAT(registry_.Scrape(), HasSubstr(total + "0\n")) << "since the coordinator's start";
  for (int64_t generation = 3; generation <= 9; ++generation) {  // preempted, drained, grown
    record.mutable_job()->set_generation(generation);
    meters_.TakeRecord(record, kNow);
  }
  EXPECT_THAT(registry_.Scrape(), HasSubstr(total + "0\n"));
  record.mutable_job()->set_state(v1::JOB_STATE_RECOVERING);
  record.mutable_job()->mutable_failures()->set_infrastructure(2);
  meters_.TakeRecord(record, kNow);
  meters_.TakeRecord(record, kNow);
  record.mutable_job()->mutable_failures()->set_unknown(1);
  meters_.TakeRecord(record, kNow);
  EXPECT_THAT(registry_.Scrape(), HasSubstr(total + "2\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_restarts_total{job_id=\"j\"} 7\n"));
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
  meters_.TakeRecord(Record(v1::JOB_STATE_PAUSED, 1, 1), kNow);
  EXPECT_THAT(registry_.Scrape(), Not(HasSubstr("anneal_job_remaining_seconds{")));
  EXPECT_THAT(registry_.Scrape(), Not(HasSubstr("anneal_job_tokens_per_second{")));
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
  internal::JobRecord other = Record(v1::JOB_STATE_RUNNING, 1, 1);
  other.set_id("other");
  meters_.Start(other, {}, kNow);
  meters_.TakeStep("j", {.step = 1, .total_steps = 1, .train_loss = 0.5}, kNow);
  internal::JobRecord failed = Record(v1::JOB_STATE_FAILED, 1, 1);
  failed.mutable_job()->set_state_reason("NON_FINITE_LOSS");
  meters_.TakeRecord(failed, kNow);
  meters_.End("j", kStart);
  meters_.RemoveEndedSeries(kStart + absl::Minutes(4));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_train_loss{job_id=\"j\"} 0.5\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_slots{job_id=\"j\"} 0\n"));
  EXPECT_THAT(registry_.Scrape(),
              HasSubstr("anneal_job_end_info{cause=\"NON_FINITE_LOSS\",job_id=\"j\",reason="
                        "\"NON_FINITE_LOSS\",state=\"FAILED\"} 1\n"));
  meters_.RemoveEndedSeries(kStart + absl::Minutes(5));
  EXPECT_THAT(registry_.Scrape(), Not(HasSubstr("job_id=\"j\"")));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_state{job_id=\"other\""));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_jobs_ended_total{reason=\"NON_FINITE_LOSS\","
                                            "state=\"FAILED\"} 1\n"));
}

TEST_F(JobMetersTest, CountsWhoseFailureEndedAJobFromZeroOn) {
  const auto failed = [&](const std::string& reason, google::rpc::Code code, int infrastructure,
                          int user, int unknown) {
    meters_.Start(Record(v1::JOB_STATE_RUNNING, 1, 1), {}, kNow);
    internal::JobRecord record = Record(v1::JOB_STATE_FAILED, 1, 1);
    record.mutable_job()->set_state_reason(reason);
    record.mutable_job()->mutable_error()->set_code(code);
    record.mutable_job()->mutable_failures()->set_infrastructure(infrastructure);
    record.mutable_job()->mutable_failures()->set_user(user);
    record.mutable_job()->mutable_failures()->set_unknown(unknown);
    meters_.TakeRecord(record, kNow);
    meters_.End("j", kStart);
  };
  const auto expect_failed = [&](int infrastructure, int user, int unknown) {
    const std::string scrape = registry_.Scrape();
    const std::string total = "anneal_jobs_failed_total{blame=\"";
    EXPECT_THAT(scrape, HasSubstr(absl::StrCat(total, "infrastructure\"} ", infrastructure, "\n")));
    EXPECT_THAT(scrape, HasSubstr(absl::StrCat(total, "user\"} ", user, "\n")));
    EXPECT_THAT(scrape, HasSubstr(absl::StrCat(total, "unknown\"} ", unknown, "\n")));
  };
  expect_failed(0, 0, 0);
  failed("KILLED", google::rpc::INTERNAL, 4, 0, 0);
  expect_failed(1, 0, 0);
  failed("OUT_OF_MEMORY", google::rpc::RESOURCE_EXHAUSTED, 0, 1, 0);
  failed("SAME_STEP_FAILED", google::rpc::FAILED_PRECONDITION, 0, 3, 0);
  expect_failed(1, 2, 0);
  failed("SAME_STEP_FAILED", google::rpc::INTERNAL, 0, 0, 3);
  expect_failed(1, 2, 1);
  // Before it trained: the error alone says it.
  failed("BAD_DATA", google::rpc::INVALID_ARGUMENT, 0, 0, 0);
  failed("PREPARE_DIED", google::rpc::INTERNAL, 0, 0, 0);
  failed("WORKER_LOST", google::rpc::UNAVAILABLE, 0, 0, 0);
  expect_failed(2, 3, 2);
}

TEST_F(JobMetersTest, AnEndThatSumsUpSeveralFailuresNamesTheLast) {
  meters_.Start(Record(v1::JOB_STATE_RUNNING, 1, 1), {}, kNow);
  internal::JobRecord record = Record(v1::JOB_STATE_FAILED, 1, 1);
  record.mutable_job()->set_state_reason("SAME_STEP_FAILED");
  google::rpc::ErrorInfo info;
  (*info.mutable_metadata())["cause"] = "NON_FINITE_LOSS";
  record.mutable_job()->mutable_error()->add_details()->PackFrom(info);
  meters_.TakeRecord(record, kNow);
  EXPECT_THAT(registry_.Scrape(),
              HasSubstr("anneal_job_end_info{cause=\"NON_FINITE_LOSS\",job_id=\"j\",reason="
                        "\"SAME_STEP_FAILED\",state=\"FAILED\"} 1\n"));
}

TEST_F(JobMetersTest, ReasonsThatWorkersInventAreBounded) {
  for (int i = 0; i < 1000; ++i)
    metrics_.CountEnd("j", v1::JOB_STATE_FAILED, absl::StrCat("REASON_", i), "DONE");
  metrics_.CountEnd("j", v1::JOB_STATE_FAILED, std::string(1000, 'X'), std::string(1000, 'X'));
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
  here.set_state(v1::Worker::STATE_EXCLUDED);
  metrics_.CountWorkers({here});
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_workers{state=\"EXCLUDED\"} 1\n"));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_workers{state=\"READY\"} 0\n"));
  EXPECT_THAT(registry_.Scrape(), Not(HasSubstr("worker=\"away\"")));
  EXPECT_THAT(registry_.Scrape(), HasSubstr("worker=\"here\""));
}

TEST_F(JobMetersTest, TheQueueShowsItsLongestWaitAndWhatItWants) {
  const auto gpu = v1::ResourceSpec::ACCELERATOR_GPU;
  JobQueue queue;
  const auto put = [&queue](const char* id, v1::JobState state, absl::Duration waited, int slots) {
    internal::JobRecord record;
    record.set_id(id);
    record.mutable_job()->set_state(state);
    // Their places are older: they have trained before and keep them.
    *record.mutable_queue_time() = TimestampOf(kNow - absl::Hours(9));
    *record.mutable_state_time() = TimestampOf(kNow - waited);
    v1::ResourceSpec& resources =
        *record.mutable_job()->mutable_resolved()->mutable_spec()->mutable_resources();
    resources.set_accelerator(gpu);
    resources.set_slots(slots);
    queue.Put(record);
  };
  // Without a worker nothing is prepared, so whoever brings workers as they are wanted would wait
  // for ever if only prepared jobs counted.
  put("a", v1::JOB_STATE_PENDING, absl::Seconds(50), 8);
  put("b", v1::JOB_STATE_QUEUED, absl::Seconds(30), 4);
  put("c", v1::JOB_STATE_QUEUED, absl::Seconds(20), 2);
  EXPECT_THAT(registry_.Scrape(), HasSubstr("anneal_job_queue_wait_seconds_count 0\n"))
      << "before the first job has started, too";
  metrics_.CountQueue(queue.FindLongestWaits(kNow), queue.CountWanted());
  const std::string scrape = registry_.Scrape();
  EXPECT_THAT(scrape, HasSubstr("anneal_jobs_oldest_wait_seconds{resource=\"prepare_slot\"} 50\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_jobs_oldest_wait_seconds{resource=\"slots\"} 30\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_slots_wanted{accelerator=\"gpu\"} 14\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_slots_wanted{accelerator=\"cpu\"} 0\n"));
}

}  // namespace
}  // namespace anneal
