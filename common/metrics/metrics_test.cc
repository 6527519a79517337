#include "common/metrics/metrics.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/status_matchers.h"
#include "common/base/thread.h"
#include "common/metrics/admin_server.h"
#include "common/metrics/host_metrics.h"
#include "common/metrics/sampler.h"
#include "common/metrics/testing/http_get.h"

namespace anneal {
namespace {

using ::anneal::testing::HttpGet;
using ::anneal::testing::IsOk;
using ::anneal::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

struct SampleMetrics {
  explicit SampleMetrics(MetricRegistry& registry)
      : steps(registry, {"anneal_job_steps_total", "Optimizer steps taken.", {"job_id"}}),
        loss(registry, {"anneal_job_train_loss", "Training loss of the last step.", {"job_id"}}),
        wait(registry, {"anneal_queue_wait_seconds", "Time from QUEUED to STARTING.", {}},
             ExponentialBounds(1, 10, 3)) {}
  Counter steps;
  Gauge loss;
  Histogram wait;
};

TEST(MetricsTest, ScrapeShowsSeriesAndRemovalEndsThem) {
  MetricRegistry registry;
  SampleMetrics metrics(registry);
  metrics.steps.Increment({"a"});
  metrics.steps.Add(2, {"a"});
  metrics.steps.Add(-5, {"a"});
  metrics.steps.Add(std::nan(""), {"a"});
  metrics.steps.Increment({"b"});
  metrics.loss.Set(0.25, {"a"});
  metrics.wait.Observe(7);
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_job_steps_total{job_id=\"a\"} 3"));
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_job_train_loss{job_id=\"a\"} 0.25"));
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_queue_wait_seconds_bucket{le=\"10\"} 1"));

  registry.RemoveSeries("job_id", {"a"});
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("job_id=\"a\"")));
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_job_steps_total{job_id=\"b\"} 1"));
  metrics.steps.Increment({"a"});
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_job_steps_total{job_id=\"a\"} 1"));
}

TEST(MetricsTest, RemovalMayAskForSeveralLabels) {
  MetricRegistry registry;
  SampleMetrics metrics(registry);
  Gauge step(registry, {"anneal_rank_step", "Steps of a rank.", {"job_id", "rank"}});
  metrics.steps.Increment({"a"});
  for (const char* rank : {"0", "1"}) {
    step.Set(1, {"a", rank});
    step.Set(1, {"b", rank});
  }
  registry.RemoveSeries({{"job_id", "a"}, {"rank", "1"}});
  const std::string scrape = registry.Scrape();
  EXPECT_THAT(scrape, Not(HasSubstr("{job_id=\"a\",rank=\"1\"}")));
  EXPECT_THAT(scrape, HasSubstr("{job_id=\"a\",rank=\"0\"}"));
  EXPECT_THAT(scrape, HasSubstr("{job_id=\"b\",rank=\"1\"}"));
  EXPECT_THAT(scrape, HasSubstr("anneal_job_steps_total{job_id=\"a\"} 1"))
      << "what has no rank is no rank's";
}

TEST(MetricsTest, AGaugeMayGoAndAHistogramMayBeShownBeforeItHasAnything) {
  MetricRegistry registry;
  SampleMetrics metrics(registry);
  metrics.loss.Set(1, {"a"});
  metrics.loss.Set(1, {"b"});
  metrics.loss.Remove({"a"});
  metrics.loss.Remove({"c"});
  metrics.wait.Show();
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("job_id=\"a\"")));
  EXPECT_THAT(registry.Scrape(), HasSubstr("job_id=\"b\""));
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_queue_wait_seconds_count 0\n"));
}

TEST(MetricsTest, HostileLabelValuesAreEscaped) {
  MetricRegistry registry;
  SampleMetrics metrics(registry);
  metrics.steps.Increment({"x\"} 9\nanneal_forged_total 1"});
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("\nanneal_forged_total")));
}

TEST(MetricsTest, PromtoolFindsNothingToSay) {
  MetricRegistry registry;
  SampleMetrics metrics(registry);
  metrics.steps.Increment({"a \"quoted\" \\ name"});
  metrics.loss.Set(1, {"a"});
  metrics.wait.Observe(1);
  const std::string file = ::testing::TempDir() + "scrape.txt";
  std::FILE* out = std::fopen(file.c_str(), "w");
  ASSERT_NE(out, nullptr);
  std::fputs(registry.Scrape().c_str(), out);
  std::fclose(out);
  std::FILE* promtool =
      ::popen(absl::StrCat("promtool check metrics < '", file, "' 2>&1").c_str(), "r");
  ASSERT_NE(promtool, nullptr);
  std::string said;
  char buffer[512];
  while (std::fgets(buffer, sizeof(buffer), promtool) != nullptr) said += buffer;
  EXPECT_EQ(::pclose(promtool), 0) << said;
  EXPECT_EQ(said, "");
}

TEST(MetricsTest, DescribesEveryMetricByName) {
  MetricRegistry registry;
  Gauge last(registry, {"anneal_z", "Added before the others.", {}});
  SampleMetrics metrics(registry);
  const std::vector<MetricDescription> all = registry.Describe();
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0].info.name, "anneal_job_steps_total");
  EXPECT_EQ(all[0].type, "counter");
  EXPECT_THAT(all[0].info.labels, ::testing::ElementsAre("job_id"));
  EXPECT_EQ(all[2].info.name, "anneal_queue_wait_seconds");
  EXPECT_EQ(all[2].type, "histogram");
  EXPECT_EQ(all[3].info.name, "anneal_z");
}

TEST(MetricsTest, WritersAndRemovalMayRace) {
  MetricRegistry registry;
  SampleMetrics metrics(registry);
  {
    Thread writer("writer", [&] {
      for (int i = 0; i < 2000; ++i) metrics.steps.Increment({"a"});
    });
    for (int i = 0; i < 200; ++i) {
      registry.RemoveSeries("job_id", {"a"});
      EXPECT_THAT(registry.Scrape(), Not(HasSubstr("job_id=\"b\"")));
    }
  }
  metrics.steps.Increment({"a"});
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_job_steps_total{job_id=\"a\"}"));
}

TEST(SamplerTest, MeasuresAtOnceAndThenEveryInterval) {
  SimulatedClock clock;
  absl::Mutex mu;
  int seen = 0;
  const auto await = [&](int count, absl::Duration timeout) {
    const auto reached = [&] { return seen >= count; };
    absl::MutexLock lock(&mu);
    return mu.AwaitWithTimeout(absl::Condition(&reached), timeout);
  };
  MetricRegistry registry;
  SamplerMetrics metrics(registry);
  const Sampler sampler({{"x",
                          [&] {
                            absl::MutexLock lock(&mu);
                            ++seen;
                            return absl::OkStatus();
                          }}},
                        absl::Seconds(15), metrics, clock);
  ASSERT_TRUE(await(1, absl::Seconds(20)));
  // The sampler begins to wait at a moment of its own.
  do {
    clock.AdvanceTime(absl::Seconds(15));
  } while (!await(2, absl::Milliseconds(10)));
}

TEST(SamplerTest, OneThatHangsOrFailsGrowsOldAndHoldsUpNoOther) {
  SimulatedClock clock;
  MetricRegistry registry;
  SamplerMetrics metrics(registry);
  absl::Mutex mu;
  int seen = 0;
  bool let_go = false;
  const auto await = [&](int count, absl::Duration timeout) {
    const auto reached = [&] { return seen >= count; };
    absl::MutexLock lock(&mu);
    return mu.AwaitWithTimeout(absl::Condition(&reached), timeout);
  };
  const std::string start = absl::StrCat(absl::ToUnixSeconds(clock.TimeNow()));
  const auto age = [](absl::string_view place, absl::string_view since) {
    return absl::StrCat("anneal_sample_last_success_timestamp_seconds{place=\"", place, "\"} ",
                        since, "\n");
  };
  {
    const Sampler sampler({{"hangs",
                            [&] {
                              absl::MutexLock lock(&mu);
                              mu.Await(absl::Condition(&let_go));
                              return absl::OkStatus();
                            }},
                           {"fails", [] { return absl::UnavailableError("no answer"); }},
                           {"works",
                            [&] {
                              absl::MutexLock lock(&mu);
                              ++seen;
                              return absl::OkStatus();
                            }}},
                          absl::Seconds(15), metrics, clock);
    EXPECT_TRUE(await(1, absl::Seconds(20)));
    do {
      clock.AdvanceTime(absl::Seconds(15));
    } while (!await(3, absl::Milliseconds(10)));
    EXPECT_THAT(registry.Scrape(), HasSubstr(age("hangs", start)));
    EXPECT_THAT(registry.Scrape(), HasSubstr(age("fails", start)));
    EXPECT_THAT(registry.Scrape(), Not(HasSubstr(age("works", start))));
    absl::MutexLock lock(&mu);
    let_go = true;
  }
}

TEST(HostMetricsTest, MeasuresFileSystemsThatAreThere) {
  MetricRegistry registry;
  HostMetrics metrics(registry);
  const std::string folder = ::testing::TempDir() + "mounted";
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  EXPECT_THAT(metrics.MeasureFileSystem("state", folder), IsOk());
  EXPECT_THAT(metrics.MeasureFileSystem("storage", ::testing::TempDir()), IsOk());
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_file_system_size_bytes{place=\"state\"} "));
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_file_system_free_bytes{place=\"state\"} "));
  // What it said of a folder that is gone is not shown as if it were so now.
  ASSERT_EQ(::rmdir(folder.c_str()), 0);
  EXPECT_THAT(metrics.MeasureFileSystem("state", folder),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(folder)));
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("place=\"state\"")));
  EXPECT_THAT(registry.Scrape(), HasSubstr("place=\"storage\""));
}

TEST(AdminServerTest, ServesMetricsAndProbesOnAnyFreePort) {
  MetricRegistry registry;
  SampleMetrics metrics(registry);
  metrics.steps.Increment({"a"});
  std::atomic<bool> ready = false;
  AdminServer::Options options;
  options.address = "127.0.0.1:0";
  options.ready = [&]() -> absl::Status {
    return ready ? absl::OkStatus() : absl::UnavailableError("catalog is loading");
  };
  ANNEAL_ASSERT_OK_AND_ASSIGN(auto server, AdminServer::Start(options, registry));
  EXPECT_THAT(server->address(), Not(::testing::EndsWith(":0")));

  EXPECT_THAT(HttpGet(server->address(), "GET /metrics"),
              HasSubstr("anneal_job_steps_total{job_id=\"a\"} 1"));
  EXPECT_THAT(HttpGet(server->address(), "GET /livez"), StartsWith("HTTP/1.1 200 OK"));
  const std::string waiting = HttpGet(server->address(), "GET /readyz");
  EXPECT_THAT(waiting, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(waiting, HasSubstr("catalog is loading"));
  ready = true;
  EXPECT_THAT(HttpGet(server->address(), "GET /readyz"), StartsWith("HTTP/1.1 200 OK"));
  EXPECT_THAT(HttpGet(server->address(), "GET /../etc/passwd"), StartsWith("HTTP/1.1 40"));
  EXPECT_THAT(HttpGet(server->address(), "POST /metrics"), StartsWith("HTTP/1.1 405"));
}

TEST(AdminServerTest, SaysWhatIsWrongWithAnAddress) {
  MetricRegistry registry;
  AdminServer::Options options;
  options.address = "localhost";
  EXPECT_THAT(AdminServer::Start(options, registry),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("host:port")));
  options.address = "203.0.113.1:0";
  EXPECT_THAT(AdminServer::Start(options, registry),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("203.0.113.1:0")));
}

}  // namespace
}  // namespace anneal
