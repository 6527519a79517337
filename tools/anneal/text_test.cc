#include "tools/anneal/text.h"

#include "gtest/gtest.h"
#include "tools/anneal/exit_code.h"
#include "tools/anneal/result.h"

namespace anneal::cli {
namespace {

TEST(TextTest, NumbersForPeople) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1500), "1.5 kB");
  EXPECT_EQ(FormatBytes(268'000'000), "268 MB");
  EXPECT_EQ(FormatBytes(999'999), "1.0 MB");
  EXPECT_EQ(FormatCount(81.2), "81");
  EXPECT_EQ(FormatCount(12'345), "12.3k");
  EXPECT_EQ(FormatCount(134'515'008), "134.5M");
  EXPECT_EQ(FormatCount(-1), "-");
  EXPECT_EQ(FormatPercent(0.875), "87.5 %");
}

TEST(TextTest, DurationsHaveTwoUnitsAtMost) {
  EXPECT_EQ(ShortDuration(absl::Seconds(-3)), "0s");
  EXPECT_EQ(ShortDuration(absl::Seconds(59.4)), "59s");
  EXPECT_EQ(ShortDuration(absl::Seconds(192)), "3m12s");
  EXPECT_EQ(ShortDuration(absl::Minutes(125)), "2h05m");
  EXPECT_EQ(ShortDuration(absl::Hours(76)), "3d04h");
}

TEST(TextTest, TablesAlignCharactersAndDisarmThem) {
  Table table({"NAME", "N"});
  table.AddRow({"ключ", "1"});
  table.AddRow({"a\x1b[2J\nb", "2"});
  EXPECT_EQ(table.Format(), "NAME     N\nключ     1\na?[2J b  2\n");
}

TEST(TextTest, StatesAndExitCodes) {
  EXPECT_EQ(StateName(v1::JOB_STATE_RUNNING), "RUNNING");
  EXPECT_EQ(StateName(static_cast<v1::JobState>(99)), "99");
  v1::Job job;
  job.set_state(v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(ExitCodeOf(job), 0);
  job.set_state(v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(ExitCodeOf(job), 3);
  job.set_state(v1::JOB_STATE_FAILED);
  EXPECT_EQ(ExitCodeOf(job), 1);
  job.mutable_error()->set_code(3);  // INVALID_ARGUMENT: bad rows
  EXPECT_EQ(ExitCodeOf(job), 2);
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("")), 1);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("")), 2);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("")), 4);
  EXPECT_EQ(ExitCodeOf(absl::PermissionDeniedError("")), 5);
}

TEST(ResultTest, BeforeAndAfter) {
  v1::JobResult result;
  EXPECT_EQ(FormatBeforeAndAfter(result), "");
  result.mutable_before()->set_loss(2.31);
  result.mutable_before()->set_exact_match(0.12);
  result.mutable_before()->set_choice_accuracy(0.66);
  result.mutable_after()->set_loss(0.2136);
  result.mutable_after()->set_exact_match(0.875);
  result.mutable_after()->set_choice_accuracy(0.875);
  result.mutable_after()->set_rows(200);
  EXPECT_EQ(FormatBeforeAndAfter(result),
            "on 200 held-out rows  before  after\n"
            "loss                  2.3100  0.2136\n"
            "exact match           12.0 %  87.5 %\n"
            "choice accuracy       66.0 %  87.5 %\n");
}

TEST(ResultTest, VllmLinesAreSafeToPaste) {
  v1::Job job;
  v1::JobSpec& spec = *job.mutable_resolved()->mutable_spec();
  spec.set_display_name("it's; rm -rf");
  spec.mutable_method()->mutable_lora()->set_rank(16);
  EXPECT_EQ(VllmServeLine(job, "/o", "Org/m"),
            "vllm serve Org/m --enable-lora --lora-modules it-s--rm--rf=/o/adapter");
  spec.mutable_method()->mutable_lora()->set_rank(65);
  EXPECT_EQ(VllmServeLine(job, "/a b", "/it's"),
            "vllm serve '/it'\\''s' --enable-lora --max-lora-rank 128 --lora-modules "
            "it-s--rm--rf='/a b/adapter'");
  spec.mutable_method()->mutable_full();
  EXPECT_EQ(VllmServeLine(job, "/o", "Org/m"), "vllm serve /o/model");
}

TEST(ResultTest, FailuresShowIssuesAndLog) {
  v1::Job job;
  job.mutable_error()->set_message("2 rows are bad");
  job.mutable_data()->set_error_count(2);
  v1::Issue& issue = *job.mutable_data()->add_issues();
  issue.set_severity(v1::Issue::SEVERITY_ERROR);
  issue.set_file("train.jsonl");
  issue.set_line(17);
  issue.set_field("messages[2].content");
  issue.set_message("is missing");
  job.set_log_tail("boom\x1b[2J");
  EXPECT_EQ(
      FormatFailure(job),
      "2 rows are bad\n  train.jsonl:17: error: messages[2].content: is missing\n  and 1 more\n"
      "the end of the log:\nboom?[2J\n");
}

}  // namespace
}  // namespace anneal::cli
