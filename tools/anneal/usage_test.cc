#include "tools/anneal/usage.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace anneal::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

constexpr auto kCpu = v1::ResourceSpec::ACCELERATOR_CPU;
constexpr auto kGpu = v1::ResourceSpec::ACCELERATOR_GPU;

v1::Usage UsageOf(const std::string& day, const std::string& project, const std::string& creator,
                  double useful, v1::ResourceSpec::Accelerator accelerator = kCpu) {
  v1::Usage usage;
  usage.set_day(day);
  usage.set_project(project);
  usage.set_creator(creator);
  usage.set_accelerator(accelerator);
  usage.set_useful_slot_seconds(useful);
  return usage;
}

// Two days of two projects and of free slots.
std::vector<v1::Usage> Sample() {
  std::vector<v1::Usage> usage = {
      UsageOf("2026-11-29", "vision", "ada", 60), UsageOf("2026-11-29", "vision", "bob", 10),
      UsageOf("2026-11-30", "", "", 0), UsageOf("2026-11-30", "speech", "eve", 5, kGpu),
      UsageOf("2026-11-30", "vision", "ada", 15)};
  usage[2].set_free_slot_seconds(400);
  usage[4].set_redone_slot_seconds(6);
  usage[4].set_lost_slot_seconds(4);
  usage[4].set_idle_slot_seconds(15);
  return usage;
}

TEST(UsageTest, AddsUpByUserProjectOrDayAndNeverOverKindsOfSlots) {
  const std::vector<UsageRow> users = SumUsage(Sample(), UsageBy::kUser);
  ASSERT_THAT(users, SizeIs(4));
  EXPECT_EQ(users[0].creator, "eve");
  EXPECT_EQ(users[1].creator, "ada");
  EXPECT_EQ(users[1].useful, 75);
  EXPECT_EQ(users[1].all(), 100);
  EXPECT_EQ(users[2].creator, "bob");
  EXPECT_EQ(users[3].project, "") << "free slots come last";
  EXPECT_EQ(users[3].free, 400);

  const std::vector<UsageRow> projects = SumUsage(Sample(), UsageBy::kProject);
  ASSERT_THAT(projects, SizeIs(3));
  EXPECT_EQ(projects[1].project, "vision");
  EXPECT_EQ(projects[1].creator, "");
  EXPECT_EQ(projects[1].useful, 85);

  const std::vector<UsageRow> days = SumUsage(Sample(), UsageBy::kDay);
  ASSERT_THAT(days, SizeIs(3));
  EXPECT_EQ(days[0].day, "2026-11-29");
  EXPECT_EQ(days[1].accelerator, kCpu);
  EXPECT_EQ(days[1].free, 400);
  EXPECT_EQ(days[1].useful, 15);
  EXPECT_EQ(days[2].accelerator, kGpu);
  EXPECT_EQ(days[2].useful, 5);
}

TEST(UsageTest, TheTableHasSharesAndTotals) {
  const std::string text = FormatUsageTable(SumUsage(Sample(), UsageBy::kUser), UsageBy::kUser);
  EXPECT_THAT(text,
              HasSubstr("vision   ada   CPU    1m40s      1m15s  75.0 %  6s  6.0 %  4s  4.0 %  "
                        "15s  15.0 %  -"));
  EXPECT_THAT(text, HasSubstr("(free)   -     CPU    6m40s"));
  EXPECT_THAT(text, HasSubstr("total    -     CPU    8m30s      1m25s  16.7 %"));
  EXPECT_THAT(text, HasSubstr("total    -     GPU    5s         5s  100.0 %"));
  EXPECT_EQ(FormatUsageTable({}, UsageBy::kUser), "no slots were held in this time\n");
  EXPECT_THAT(FormatUsageTable(SumUsage(Sample(), UsageBy::kDay), UsageBy::kDay),
              Not(HasSubstr("USER")));
}

TEST(UsageTest, CsvIsSafeForSpreadsheets) {
  v1::Usage usage = UsageOf("2026-11-30", "vision", "=cmd|' /C calc'!A0, \"x\"", 1);
  usage.set_redone_slot_seconds(2);
  usage.set_lost_slot_seconds(3);
  usage.set_idle_slot_seconds(4.25);
  EXPECT_EQ(FormatUsageCsv(SumUsage({usage}, UsageBy::kUser)),
            "day,project,user,accelerator,useful_slot_seconds,redone_slot_seconds,"
            "lost_slot_seconds,idle_slot_seconds,free_slot_seconds\r\n"
            ",\"vision\",\"'=cmd|' /C calc'!A0, \"\"x\"\"\",CPU,1.0,2.0,3.0,4.2,0.0\r\n");
}

}  // namespace
}  // namespace anneal::cli
