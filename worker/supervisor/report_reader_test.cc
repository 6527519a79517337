#include "worker/supervisor/report_reader.h"

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_matchers.h"
#include "common/base/temp_dir.h"
#include "common/format/json.h"
#include "common/protocol/messages.h"

namespace anneal {
namespace {

using ::anneal::testing::IsOkAndHolds;
using ::testing::HasSubstr;

std::string Step(int step) {
  return DumpJson(protocol::ToJson(protocol::Report{.step = protocol::StepReport{.step = step}}));
}

class ReportReaderTest : public ::testing::Test {
 protected:
  void Append(const std::string& text) { std::ofstream(path_, std::ios::app) << text; }

  const testing::TempDir temp_;
  const std::string path_ = temp_.path() + "/reports.jsonl";
  ReportReader reader_{path_};
};

TEST_F(ReportReaderTest, LinesAreReportsNumberedFromOne) {
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(false));
  EXPECT_TRUE(reader_.at_end());
  Append(Step(10) + "\n" + Step(20) + "\n");
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(true));
  ASSERT_EQ(reader_.window().size(), 2u);
  EXPECT_EQ(reader_.window()[0].sequence, 1);
  EXPECT_EQ(reader_.window()[0].json, Step(10));
  EXPECT_EQ(reader_.window()[1].sequence, 2);
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(false));
}

TEST_F(ReportReaderTest, HalfALineIsNotThereYet) {
  Append(Step(1).substr(0, 10));
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(false));
  EXPECT_TRUE(reader_.at_end());
  Append(Step(1).substr(10) + "\n");
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(true));
  EXPECT_EQ(reader_.window()[0].json, Step(1));
}

TEST_F(ReportReaderTest, TheWindowIsBoundedAndMovesWithAcknowledgements) {
  for (int i = 1; i <= 1000; ++i) Append(Step(i) + "\n");
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(true));
  EXPECT_EQ(reader_.window().size(), ReportReader::kMaxReports);
  EXPECT_FALSE(reader_.at_end());
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(false));
  for (int acknowledged = 100; acknowledged <= 1000; acknowledged += 100) {
    reader_.Acknowledge(acknowledged);
    ASSERT_THAT(reader_.Poll(), ::anneal::testing::IsOk());
    ASSERT_EQ(reader_.window().size(), std::min<size_t>(256, 1000 - acknowledged));
    if (acknowledged < 1000) {
      ASSERT_EQ(reader_.window().front().json, Step(acknowledged + 1));
    }
  }
  EXPECT_TRUE(reader_.at_end());
}

TEST_F(ReportReaderTest, LargeReportsFillTheWindowByBytes) {
  const std::string large = DumpJson(protocol::ToJson(protocol::Report{
      .issue =
          protocol::IssueReport{.message = std::string(protocol::kMaxReportBytes - 1000, 'x')}}));
  Append(large + "\n" + large + "\n" + large + "\n");
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(true));
  EXPECT_EQ(reader_.window().size(), 2u);  // the first leaves room by a little
  reader_.Acknowledge(2);
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(true));
  EXPECT_EQ(reader_.window().front().sequence, 3);
}

TEST_F(ReportReaderTest, ANewReaderSkipsWhatIsAcknowledged) {
  for (int i = 1; i <= 600; ++i) Append(Step(i) + "\n");
  reader_.Acknowledge(590);
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(true));
  EXPECT_EQ(reader_.window().size(), 10u);
  EXPECT_EQ(reader_.window().front().json, Step(591));
  reader_.Acknowledge(5);  // older news change nothing
  EXPECT_EQ(reader_.window().size(), 10u);
}

TEST_F(ReportReaderTest, WhatIsNoReportKeepsItsNumberAsAnIssue) {
  Append("garbage\n{}\n\n" + std::string("\0\xff\n", 3) +
         std::string(3 * protocol::kMaxReportBytes, ' ') + "\n" + Step(6) + "\n");
  EXPECT_THAT(reader_.Poll(), IsOkAndHolds(true));
  ASSERT_EQ(reader_.window().size(), 6u);
  for (int i = 0; i < 5; ++i)
    EXPECT_THAT(reader_.window()[i].json, HasSubstr("REPORT_UNREADABLE")) << i;
  EXPECT_THAT(reader_.window()[4].json, HasSubstr("too long"));
  EXPECT_EQ(reader_.window()[5].sequence, 6);
  EXPECT_EQ(reader_.window()[5].json, Step(6));
}

}  // namespace
}  // namespace anneal
