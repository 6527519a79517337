#include "worker/daemon/gpu_metrics.h"

#include <filesystem>

#include "common/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOk;
using ::testing::HasSubstr;
using ::testing::Not;

// Built beside this test.
std::string Library(const std::string& name) {
  const std::filesystem::path bin = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  return (bin.parent_path() / "lib" / ("lib" + name + ".so")).string();
}

TEST(GpuMetricsTest, ShowsWhatTheDriverKnows) {
  MetricRegistry registry;
  GpuMetrics metrics(registry);
  EXPECT_THAT(metrics.Measure({.nvml_library = Library("fake_nvml")}), IsOk());
  EXPECT_THAT(metrics.Measure({.nvml_library = Library("fake_nvml")}), IsOk());
  const std::string scrape = registry.Scrape();
  EXPECT_THAT(scrape, HasSubstr("anneal_gpu_driver_up 1\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_gpu_busy_ratio{gpu=\"GPU-00000000\"} 0.75\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_gpu_temperature_celsius{gpu=\"GPU-00000001\"} 61\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_gpu_power_watts{gpu=\"GPU-00000001\"} 350\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_gpu_used_memory_bytes{gpu=\"GPU-00000000\"} 1073741824\n"));
  EXPECT_THAT(scrape, HasSubstr("anneal_gpu_uncorrected_errors_total{gpu=\"GPU-00000000\"} 2\n"));
  EXPECT_THAT(scrape, Not(HasSubstr("errors_total{gpu=\"GPU-00000001\"}")));
  // It fails: what the GPUs did before is no longer shown.
  EXPECT_THAT(metrics.Measure({.nvml_library = Library("fake_nvml_broken")}), Not(IsOk()));
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("anneal_gpu_busy_ratio{")));
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("bytes{gpu=")));
  EXPECT_THAT(registry.Scrape(),
              HasSubstr("anneal_gpu_uncorrected_errors_total{gpu=\"GPU-00000000\"} 2\n"));
}

TEST(GpuMetricsTest, ADriverThatFailsShows) {
  MetricRegistry registry;
  GpuMetrics metrics(registry);
  EXPECT_THAT(metrics.Measure({.nvml_library = Library("fake_nvml_broken")}), Not(IsOk()));
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_gpu_driver_up 0\n"));
  EXPECT_THAT(metrics.Measure({.use_gpus = false, .nvml_library = Library("fake_nvml_broken")}),
              IsOk());
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_gpu_driver_up 1\n"));
  EXPECT_THAT(metrics.Measure({.nvml_library = "libno-such-thing.so"}), IsOk());
  EXPECT_THAT(registry.Scrape(), HasSubstr("anneal_gpu_driver_up 1\n"));
  EXPECT_THAT(registry.Scrape(), Not(HasSubstr("gpu=")));
}

}  // namespace
}  // namespace anneal
