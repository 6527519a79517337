#include "worker/daemon/worker_metrics.h"

#include "common/base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const protocol::TaskKey kFirst{.job = "j", .generation = 1};
const protocol::TaskKey kSecond{.job = "j", .generation = 2};
constexpr char kForward[] =
    "anneal_rank_step_seconds_total{job_id=\"j\",phase=\"forward\",rank=\"0\"} ";

TEST(WorkerMetricsTest, TotalsGoOnOverGenerationsAndNeverFall) {
  SimulatedClock clock;
  MetricRegistry registry;
  WorkerMetrics metrics(registry, clock);
  metrics.Count(kFirst, {.step = 1, .forward_seconds = 1.5, .tokens = 100});
  metrics.Count(kFirst, {.step = 2, .forward_seconds = 2.5, .tokens = 250});
  metrics.Count(kFirst, {.step = 2, .forward_seconds = 2.5, .tokens = 250});
  metrics.Forget(kFirst);
  metrics.Count(kSecond, {.step = 1, .forward_seconds = 1.0, .tokens = 50, .resident_bytes = 4096});
  const std::string scrape = registry.Scrape();
  EXPECT_THAT(scrape, HasSubstr(std::string(kForward) + "3.5"));
  EXPECT_THAT(scrape, HasSubstr("anneal_rank_tokens_total{job_id=\"j\",rank=\"0\"} 300"));
  EXPECT_THAT(scrape, HasSubstr("anneal_rank_resident_bytes{job_id=\"j\",rank=\"0\"} 4096"));
}

TEST(WorkerMetricsTest, SeriesOfARankLingerFiveMinutesAfterItsLastTask) {
  SimulatedClock clock;
  MetricRegistry registry;
  WorkerMetrics metrics(registry, clock);
  metrics.Count(kFirst, {.forward_seconds = 1});
  metrics.Forget(kFirst);
  clock.AdvanceTime(absl::Minutes(4));
  metrics.Count(kSecond, {.forward_seconds = 1});  // the job is back
  clock.AdvanceTime(absl::Minutes(4));
  metrics.Expire();
  EXPECT_THAT(registry.Scrape(), HasSubstr(kForward));
  metrics.Forget(kSecond);
  metrics.Forget({.job = "never counted"});
  clock.AdvanceTime(absl::Minutes(4));
  metrics.Expire();
  EXPECT_THAT(registry.Scrape(), HasSubstr(kForward));
  clock.AdvanceTime(absl::Minutes(1));
  metrics.Expire();
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("job_id")));
}

TEST(WorkerMetricsTest, WhatARankIsDoingIsShownWhileItDoes) {
  SimulatedClock clock;
  MetricRegistry registry;
  WorkerMetrics metrics(registry, clock);
  metrics.Count(kFirst, {.step = 7, .forward_seconds = 1, .phase_seconds = 3});
  metrics.Count(kSecond, {.step = 5, .forward_seconds = 1, .phase_seconds = 1});
  metrics.Forget(kFirst);
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_rank_step{job_id=\"j\",rank=\"0\"} 5\n"));
  metrics.Forget(kSecond);
  for (const char* gauge :
       {"anneal_rank_step{", "anneal_rank_phase_age_seconds{", "anneal_rank_resident_bytes{"})
    EXPECT_THAT(registry.Scrape(), Not(HasSubstr(gauge)));
  EXPECT_THAT(registry.Scrape(), HasSubstr(kForward));
}

TEST(WorkerMetricsTest, RanksThatAJobComesBackWithoutGo) {
  SimulatedClock clock;
  MetricRegistry registry;
  WorkerMetrics metrics(registry, clock);
  const auto key = [](int64_t generation, int rank) {
    return protocol::TaskKey{.job = "j", .generation = generation, .rank = rank};
  };
  for (int rank : {0, 1}) metrics.Count(key(1, rank), {.forward_seconds = 1});
  for (int rank : {0, 1}) metrics.Forget(key(1, rank));
  metrics.Count(key(2, 0), {.forward_seconds = 1});
  clock.AdvanceTime(absl::Minutes(5));
  metrics.Count(key(2, 0), {.forward_seconds = 2});
  metrics.Expire();
  EXPECT_THAT(registry.Scrape(), HasSubstr(std::string(kForward) + "3"));
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("rank=\"1\"")));
}

TEST(WorkerMetricsTest, CountsHowProcessesEnded) {
  SimulatedClock clock;
  MetricRegistry registry;
  WorkerMetrics metrics(registry, clock);
  const std::string killed = "anneal_worker_task_ends_total{kind=\"train\",outcome=\"killed\"} ";
  EXPECT_THAT(registry.Scrape(), HasSubstr(killed + "0"));
  internal::TaskExit exit;
  metrics.CountEnd(protocol::TaskKind::kTrain, exit);
  exit.set_status_code(8);
  metrics.CountEnd(protocol::TaskKind::kPrepare, exit);
  exit.set_signal(9);
  metrics.CountEnd(protocol::TaskKind::kTrain, exit);
  const std::string scrape = registry.Scrape();
  EXPECT_THAT(scrape, HasSubstr(killed + "1"));
  EXPECT_THAT(scrape, HasSubstr("{kind=\"train\",outcome=\"ok\"} 1"));
  EXPECT_THAT(scrape, HasSubstr("{kind=\"prepare\",outcome=\"failed\"} 1"));
}

}  // namespace
}  // namespace anneal
