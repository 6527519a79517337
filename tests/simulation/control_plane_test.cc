// The whole control plane under faults, many seeds at a time. One seed is one run:
//
//   control_plane_test --gtest_filter='*OneSeed*'    with ANNEAL_SEED=17 replays seed 17, told step
//   by
//                                                    step

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "common/base/log.h"
#include "common/base/temp_dir.h"
#include "gtest/gtest.h"
#include "tests/simulation/sim_cluster.h"

namespace anneal::simulation {
namespace {

constexpr uint64_t kSeeds = 200;

std::string RunSeed(uint64_t seed, bool tell = false) {
  anneal::testing::TempDir dir;
  SimCluster cluster(seed, dir.path());
  if (tell) {
    cluster.world().ListenToTrace([&cluster](const std::string& line) {
      std::printf("%10s  %s\n", absl::FormatDuration(cluster.world().elapsed()).c_str(),
                  line.c_str());
    });
  }
  cluster.Run();
  return cluster.TraceHash();
}

class ControlPlaneTest : public ::testing::Test {
 protected:
  // Faults are errors for the log; here they are the point.
  void SetUp() override { SetMinLogSeverity(static_cast<LogSeverity>(4)); }
  void TearDown() override { SetMinLogSeverity(LogSeverity::kInfo); }
};

TEST_F(ControlPlaneTest, EveryAcknowledgedJobEndsWhateverBreaks) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    RunSeed(seed);
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
}

TEST_F(ControlPlaneTest, OneSeedIsOneRun) {
  const char* chosen = std::getenv("ANNEAL_SEED");
  uint64_t seed = 4711;
  if (chosen != nullptr) {
    ASSERT_TRUE(absl::SimpleAtoi(chosen, &seed));
  }
  const std::string first = RunSeed(seed, /*tell=*/chosen != nullptr);
  EXPECT_EQ(RunSeed(seed), first);
  EXPECT_NE(RunSeed(seed + 1), first);
}

}  // namespace
}  // namespace anneal::simulation
